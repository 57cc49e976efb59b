// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What pods send to the world outside leaves with an address of this host, from
 * a port that nat.h keeps: nobody outside knows a way to pods. Who knows one,
 * the cell's hosts and what the administrator names, sees the pod's own address.
 */
#ifndef SHOAL_MASQUERADE_H
#define SHOAL_MASQUERADE_H

#include "nat.h"

/* The address a pod has behind the interface of skb; 0: its own. */
static __always_inline __be32 masquerade_address(struct __sk_buff *skb, __be32 src, __be32 dst)
{
	struct range_key to = {.bits = 32, .addr = dst};
	__u32 ifindex = skb->ifindex;
	__be32 *from = bpf_map_lookup_elem(&masquerades, &ifindex);

	if (!from || !bpf_map_lookup_elem(&pods, &src) || bpf_map_lookup_elem(&inside, &to))
		return 0;
	return *from;
}

/* Somebody outside who knows a way to a pod calls it: the answers must keep its
 * address. TCP needs no mark, since its calls begin with a SYN. */
static __always_inline int called_from_outside(const struct packet *p)
{
	struct range_key from = {.bits = 32, .addr = p->src};
	struct flow_key key = {
		.src = p->dst,
		.dst = p->src,
		.sport = p->dport,
		.dport = p->sport,
		.proto = p->proto,
		.direction = FLOW_OUT,
	};
	struct flow own = {};

	if (p->proto == PROTO_TCP || !bpf_map_lookup_elem(&pods, &p->dst) ||
	    bpf_map_lookup_elem(&inside, &from) || bpf_map_lookup_elem(&flows, &key))
		return VERDICT_PASS;
	if (bpf_map_update_elem(&flows, &key, &own, BPF_NOEXIST))
		return VERDICT_DROP;
	return VERDICT_PASS;
}

static __always_inline int masquerade(struct __sk_buff *skb, const struct packet *p)
{
	__be32 from = masquerade_address(skb, p->src, p->dst);
	struct flow_key key = key_of(p, FLOW_OUT);
	struct flow fresh = {.addr = p->dst, .port = p->dport};
	struct flow *f;
	__be16 port;

	if (!from)
		return VERDICT_PASS;
	f = bpf_map_lookup_elem(&flows, &key);
	if (f && !f->addr)
		return VERDICT_PASS;
	if (f)
		fresh.nat_port = f->nat_port;
	else if (p->proto == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return VERDICT_PASS;
	port = nat_port(p, &fresh, from);
	if (!port)
		return VERDICT_DROP;
	if (port != fresh.nat_port) {
		fresh.nat_port = port;
		if (bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY))
			return VERDICT_DROP;
	}
	if (rewrite(skb, p, IP_SRC, 0, p->src, p->sport, from, port))
		return VERDICT_DROP;
	return VERDICT_PASS;
}

/* What has no ports can not be told apart when the answer comes: it may not
 * leave with the pod's address. */
static __always_inline int masquerade_rest(struct __sk_buff *skb, const struct packet *p)
{
	return masquerade_address(skb, p->src, p->dst) ? VERDICT_DROP : VERDICT_PASS;
}

#endif
