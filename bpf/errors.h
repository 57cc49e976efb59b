// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * ICMP errors (RFC 792) quote the packet they are about as it was on the wire.
 * Who sent it knows it by other addresses: the quotation is turned back as the
 * answers are (RFC 5508). Without it nobody learns a path's MTU.
 *
 * The checksum of a quoted IPv4 header changes against its address, so ICMP's own
 * need not change for these; it does for ports. IPv6 has no such checksum, and
 * ICMPv6 (RFC 4443) changes for both. The quoted transport checksum is left:
 * nobody checks it.
 */
#ifndef SHOAL_ERRORS_H
#define SHOAL_ERRORS_H

#include "nat.h"

#define ICMP_UNREACHABLE 3 /* also: fragmentation needed */
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP_LEN 8

/* ICMPv6: unreachable 1, packet too big 2, time exceeded 3, parameter problem 4. */
#define ICMPV6_FIRST_ERROR 1
#define ICMPV6_LAST_ERROR 4

static __always_inline int is_error(const struct packet *p)
{
	__u8 type = p->icmp_type;

	if (!is_icmp(p) || p->later)
		return 0;
	if (p->v6)
		return type >= ICMPV6_FIRST_ERROR && type <= ICMPV6_LAST_ERROR;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER_PROBLEM;
}

/* Reads the packet that an error quotes: what has ports, or is a pod's echo. */
static __always_inline int parse_quoted(struct __sk_buff *skb, const struct packet *p,
					struct packet *q)
{
	struct fragment f = {};

	q->ip = p->transport + ICMP_LEN;
	if (parse_ip(skb, q, &f) || q->later)
		return -1;
	if (is_icmp(q))
		return bpf_skb_load_bytes(skb, q->transport + ICMP_ID, &q->sport, 2);
	if (q->proto != PROTO_TCP && q->proto != PROTO_UDP)
		return -1;
	if (bpf_skb_load_bytes(skb, q->transport, &q->sport, 2))
		return -1;
	return bpf_skb_load_bytes(skb, q->transport + 2, &q->dport, 2);
}

/* Replaces one end of the quoted packet, as rewrite does. */
static __always_inline int rewrite_quoted(struct __sk_buff *skb, const struct packet *p,
					  const struct packet *q, enum end end,
					  const __be32 *addr, __be16 port)
{
	__u32 diff = addr_diff(end == END_SRC ? q->src : q->dst, addr);
	__u32 checksum = p->transport + ICMP_CHECKSUM;
	__u32 at_port = q->transport + (end == END_SRC ? 0 : 2);
	__be16 old_port = end == END_SRC ? q->sport : q->dport;

	if (rewrite_header(skb, q, end, diff, addr))
		return -1;
	if (p->v6 && bpf_l4_csum_replace(skb, checksum, 0, diff, 0))
		return -1;
	if (old_port == port)
		return 0;
	if (is_icmp(q))
		at_port = q->transport + ICMP_ID;
	if (bpf_l4_csum_replace(skb, checksum, old_port, port, 2))
		return -1;
	return bpf_skb_store_bytes(skb, at_port, &port, 2, 0);
}

/* Replaces an address of the error itself. */
static __always_inline int rewrite_error(struct __sk_buff *skb, const struct packet *p,
					 enum end end, const __be32 *addr)
{
	__u32 diff = addr_diff(end == END_SRC ? p->src : p->dst, addr);

	if (p->v6 && change_pseudo(skb, p, p->transport + ICMP_CHECKSUM, diff, 0))
		return -1;
	return rewrite_header(skb, p, end, diff, addr);
}

static __always_inline int error_to_pod(struct __sk_buff *skb, const struct packet *p,
					const __be32 *addr)
{
	struct pod *pod = bpf_map_lookup_elem(&pods, addr);

	if (rewrite_error(skb, p, END_DST, addr))
		return drop(skb, DROP_NOT_REWRITTEN);
	return pod ? redirect_to_pod(skb, pod->ifindex) : VERDICT_PASS;
}

/* About a packet that left in our name: it goes to who began the connection. */
static __always_inline int error_of_nat(struct __sk_buff *skb, const struct packet *p,
					const struct packet *q, const struct nat *n)
{
	struct nat to = *n;
	struct way way = {};

	if (rewrite_quoted(skb, p, q, END_SRC, to.client, to.client_port) ||
	    rewrite_quoted(skb, p, q, END_DST, to.called, to.called_port))
		return drop(skb, DROP_NOT_REWRITTEN);
	if (bpf_map_lookup_elem(&pods, to.client))
		return error_to_pod(skb, p, to.client);
	if (find_way(skb, p, to.client, &way))
		return drop(skb, DROP_NO_ROUTE);
	if (rewrite_error(skb, p, END_DST, to.client))
		return drop(skb, DROP_NOT_REWRITTEN);
	return leave(skb, &way);
}

static __always_inline int error_from_outside(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key;
	struct packet q = {};
	struct flow *f, to;
	struct nat *n;

	if (parse_quoted(skb, p, &q))
		return VERDICT_PASS;
	if (in_nat_range(q.sport)) {
		key = key_of_answer(&q, FLOW_REPLY);
		n = bpf_map_lookup_elem(&nats, &key);
		if (n)
			return error_of_nat(skb, p, &q, n);
	}
	/* About an answer of a pod of ours. */
	key = key_of_answer(&q, FLOW_REQUEST);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f || f->nat_port)
		return VERDICT_PASS;
	to = *f;
	if (rewrite_quoted(skb, p, &q, END_SRC, to.addr, to.port))
		return drop(skb, DROP_NOT_REWRITTEN);
	return error_to_pod(skb, p, to.addr);
}

/* A pod tells a caller from outside that it has no such port, or a host that a
 * packet is too large: about the address that was called. */
static __always_inline int error_to_caller(struct __sk_buff *skb, const struct packet *p,
					   const struct packet *q, const struct flow *f)
{
	struct flow called = *f;

	if (rewrite_quoted(skb, p, q, END_DST, called.addr, called.port))
		return drop(skb, DROP_NOT_REWRITTEN);
	if (same_addr(p->src, q->dst) && rewrite_error(skb, p, END_SRC, called.addr))
		return drop(skb, DROP_NOT_REWRITTEN);
	return VERDICT_PASS;
}

#endif
