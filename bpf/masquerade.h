// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What pods send to the world outside leaves with an address of this host, from
 * a port that natport.h keeps: nobody outside knows a way to pods. Who knows one,
 * the cell's hosts and what the administrator names, sees the pod's own address.
 */
#ifndef SHOAL_MASQUERADE_H
#define SHOAL_MASQUERADE_H

#include "errors.h"

/* The address a pod has behind the interface of skb; null: its own. */
static __always_inline const __be32 *masquerade_address(struct __sk_buff *skb,
							const struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	struct masquerade *m = bpf_map_lookup_elem(&masquerades, &ifindex);
	const __be32 *from;

	if (!m)
		return 0;
	from = p->v6 ? m->ipv6 : m->ipv4;
	if (is_unset(from) || !bpf_map_lookup_elem(&pods, p->src) || find_range(&inside, p->dst))
		return 0;
	return from;
}

/* Somebody outside who knows a way to a pod calls it: the answers must keep its
 * address. TCP needs no mark, since its calls begin with a SYN. */
static __always_inline int called_from_outside(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key = key_of_answer(p, FLOW_OUT);
	struct flow own = {};

	if (p->proto == PROTO_TCP || !bpf_map_lookup_elem(&pods, p->dst) ||
	    find_range(&inside, p->src) || bpf_map_lookup_elem(&flows, &key))
		return VERDICT_PASS;
	/* Another processor may have been faster with the first two datagrams. */
	if (bpf_map_update_elem(&flows, &key, &own, BPF_NOEXIST) && !bpf_map_lookup_elem(&flows, &key))
		return drop(skb, DROP_FLOW_NOT_KEPT);
	return VERDICT_PASS;
}

static __always_inline int masquerade(struct __sk_buff *skb, const struct packet *p)
{
	const __be32 *from = masquerade_address(skb, p);
	struct flow_key key = key_of(p, FLOW_OUT);
	struct flow fresh = {.port = p->dport};
	struct flow *f;
	__be16 port;

	if (!from)
		return VERDICT_PASS;
	set_addr(fresh.addr, p->dst);
	f = bpf_map_lookup_elem(&flows, &key);
	if (f && is_unset(f->addr))
		return VERDICT_PASS;
	if (f)
		fresh.nat_port = f->nat_port;
	else if (p->proto == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return VERDICT_PASS;
	else if (is_icmp(p) && !p->sport)
		return drop(skb, DROP_NO_PORTS); /* the answer to an echo of nobody */
	port = nat_port(p, &fresh, from, 1);
	if (!port)
		return drop(skb, DROP_NO_FREE_PORT);
	if (port != fresh.nat_port) {
		fresh.nat_port = port;
		if (bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY))
			return drop(skb, DROP_FLOW_NOT_KEPT);
	}
	if (rewrite(skb, p, END_SRC, from, port))
		return drop(skb, DROP_NOT_REWRITTEN);
	return VERDICT_PASS;
}

/* What can not be told apart when the answer comes, or is malformed, may not leave
 * with the pod's address. */
static __always_inline int masquerade_rest(struct __sk_buff *skb, const struct packet *p,
					   enum drop_reason reason)
{
	return masquerade_address(skb, p) ? drop(skb, reason) : VERDICT_PASS;
}

/* A pod's ICMP error about an answer to its own call, or about a call from who
 * knows the way to it. The rest is of no use outside. */
static __always_inline int masquerade_error(struct __sk_buff *skb, const struct packet *p,
					    const struct packet *q)
{
	struct flow_key key = key_of_answer(q, FLOW_OUT);
	struct flow *f = bpf_map_lookup_elem(&flows, &key);
	const __be32 *from;
	struct flow own;

	if (!f)
		return masquerade_rest(skb, p, DROP_NO_PORTS);
	own = *f;
	from = masquerade_address(skb, p);
	if (!from || is_unset(own.addr))
		return VERDICT_PASS;
	if (rewrite_quoted(skb, p, q, END_DST, from, own.nat_port) ||
	    rewrite_error(skb, p, END_SRC, from))
		return drop(skb, DROP_NOT_REWRITTEN);
	return VERDICT_PASS;
}

static __always_inline int error_to_outside(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key;
	struct packet q = {};
	struct flow *f;

	if (parse_quoted(skb, p, &q))
		return masquerade_rest(skb, p, DROP_MALFORMED);
	key = key_of_answer(&q, FLOW_REPLY);
	f = bpf_map_lookup_elem(&flows, &key);
	return f ? error_to_caller(skb, p, &q, f) : masquerade_error(skb, p, &q);
}

#endif
