// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * ICMP errors (RFC 792) quote the packet they are about as it was on the wire.
 * Who sent it knows it by other addresses: the quotation is turned back as the
 * answers are (RFC 5508). Without it nobody learns a path's MTU.
 *
 * The checksum of a quoted IP header changes against its address, so ICMP's own
 * need not change for these; it does for ports. The quoted transport checksum
 * is left: nobody checks it.
 */
#ifndef SHOAL_ERRORS_H
#define SHOAL_ERRORS_H

#include "nat.h"

#define ICMP_UNREACHABLE 3 /* also: fragmentation needed */
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMP_LEN 8

static __always_inline int is_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETER_PROBLEM;
}

/* The quoted packet. ip is the offset of its IP header. */
struct quoted {
	__u32 ip;
	__u32 transport;
	__be32 src;
	__be32 dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
};

static __always_inline int parse_quoted(struct __sk_buff *skb, const struct packet *p,
					struct quoted *q)
{
	struct ip_header ip;
	__u32 length;

	q->ip = p->transport + ICMP_LEN;
	if (bpf_skb_load_bytes(skb, q->ip, &ip, sizeof(ip)))
		return -1;
	length = (ip.version_length & 0x0f) * 4;
	if (ip.version_length >> 4 != 4 || length < sizeof(ip) || ip.fragment & FRAGMENT_OFFSET)
		return -1;
	q->transport = q->ip + length;
	q->src = ip.src;
	q->dst = ip.dst;
	q->proto = ip.proto;
	if (q->proto == PROTO_ICMP) { /* an echo of a pod's; see parse_ports */
		q->dport = 0;
		return bpf_skb_load_bytes(skb, q->transport + ICMP_ID, &q->sport, 2);
	}
	if (q->proto != PROTO_TCP && q->proto != PROTO_UDP)
		return -1;
	if (bpf_skb_load_bytes(skb, q->transport, &q->sport, 2))
		return -1;
	return bpf_skb_load_bytes(skb, q->transport + 2, &q->dport, 2);
}

/* The key of an answer to the quoted packet. */
static __always_inline struct flow_key key_of_answer(const struct quoted *q, __u8 direction)
{
	struct flow_key key = {
		.src = q->dst,
		.dst = q->src,
		.sport = q->dport,
		.dport = q->sport,
		.proto = q->proto,
		.direction = direction,
	};

	return key;
}

/* Replaces one end of the quoted packet, as rewrite does. */
static __always_inline int rewrite_quoted(struct __sk_buff *skb, const struct packet *p,
					  const struct quoted *q, __u32 at_ip, __u32 at_port,
					  __be32 old_addr, __be16 old_port, __be32 addr, __be16 port)
{
	if (rewrite_address(skb, q->ip, at_ip, old_addr, addr))
		return -1;
	if (old_port == port)
		return 0;
	if (q->proto == PROTO_ICMP)
		at_port = ICMP_ID;
	if (bpf_l4_csum_replace(skb, p->transport + ICMP_CHECKSUM, old_port, port, 2))
		return -1;
	return bpf_skb_store_bytes(skb, q->transport + at_port, &port, 2, 0);
}

static __always_inline int error_to_pod(struct __sk_buff *skb, const struct packet *p, __be32 addr)
{
	struct pod *pod = bpf_map_lookup_elem(&pods, &addr);

	if (rewrite_address(skb, ETH_LEN, IP_DST, p->dst, addr))
		return VERDICT_DROP;
	return pod ? redirect_to_pod(skb, pod->ifindex) : VERDICT_PASS;
}

/* About a packet that left in our name: it goes to who began the connection. */
static __always_inline int error_of_nat(struct __sk_buff *skb, const struct packet *p,
					const struct quoted *q, const struct nat *n)
{
	struct nat to = *n;
	struct way way = {};

	if (rewrite_quoted(skb, p, q, IP_SRC, 0, q->src, q->sport, to.client, to.client_port) ||
	    rewrite_quoted(skb, p, q, IP_DST, 2, q->dst, q->dport, to.called, to.called_port))
		return VERDICT_DROP;
	if (bpf_map_lookup_elem(&pods, &to.client))
		return error_to_pod(skb, p, to.client);
	if (find_way(skb, p, to.client, &way) ||
	    rewrite_address(skb, ETH_LEN, IP_DST, p->dst, to.client))
		return VERDICT_DROP;
	return leave(skb, &way);
}

static __always_inline int error_from_outside(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key;
	struct quoted q = {};
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
	if (rewrite_quoted(skb, p, &q, IP_SRC, 0, q.src, q.sport, to.addr, to.port))
		return VERDICT_DROP;
	return error_to_pod(skb, p, to.addr);
}

/* A pod tells a caller from outside that it has no such port, or a host that a
 * packet is too large: about the address that was called. */
static __always_inline int error_to_outside(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key;
	struct quoted q = {};
	struct flow *f, called;

	if (parse_quoted(skb, p, &q))
		return VERDICT_PASS;
	key = key_of_answer(&q, FLOW_REPLY);
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f)
		return VERDICT_PASS;
	called = *f;
	if (rewrite_quoted(skb, p, &q, IP_DST, 2, q.dst, q.dport, called.addr, called.port))
		return VERDICT_DROP;
	if (p->src == q.dst && rewrite_address(skb, ETH_LEN, IP_SRC, p->src, called.addr))
		return VERDICT_DROP;
	return VERDICT_PASS;
}

#endif
