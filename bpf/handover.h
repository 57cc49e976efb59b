// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Calls to an address that all hosts share (of a load balancer, an external one)
 * whose backend is on another host of the same link are handed over to that host
 * as they are, and it answers the caller by itself. So it alone knows the
 * connection, which goes on when another host takes the address over: that one
 * chooses the same backend by Maglev, and hands over too.
 *
 * What is handed over is marked in its IP header, and never handed over again:
 * tables that differ for a moment, or by what backends are meant for which
 * hosts, send no packet in circles. A switch that takes the mark off does no
 * harm where tables agree; each host that hands over also takes a hop.
 */
#ifndef SHOAL_HANDOVER_H
#define SHOAL_HANDOVER_H

#include "nat.h"

/* A code point for local use (RFC 2474 section 6, pool 2). */
#define HANDED_DSCP 0x2b

/* The traffic class begins at the fifth bit of IPv6's header, and at the ninth
 * of IPv4's; the code point is its upper six bits. */
static __always_inline __u32 dscp_shift(const struct packet *p)
{
	return p->v6 ? 6 : 2;
}

static __always_inline int was_handed(struct __sk_buff *skb, const struct packet *p)
{
	__be16 word;

	if (bpf_skb_load_bytes(skb, p->ip, &word, 2))
		return 0;
	return (bpf_ntohs(word) >> dscp_shift(p) & 0x3f) == HANDED_DSCP;
}

static __always_inline int set_dscp(struct __sk_buff *skb, const struct packet *p, __u16 dscp)
{
	__u32 shift = dscp_shift(p);
	__be16 old, word;

	if (bpf_skb_load_bytes(skb, p->ip, &old, 2))
		return -1;
	word = bpf_htons((bpf_ntohs(old) & ~(0x3f << shift)) | dscp << shift);
	if (!p->v6 && bpf_l3_csum_replace(skb, p->ip + IP_CHECKSUM, old, word, 2))
		return -1;
	return bpf_skb_store_bytes(skb, p->ip, &word, 2, p->v6 ? BPF_F_RECOMPUTE_CSUM : 0);
}

/* The verdict on a call whose backend, f, is on another machine, to which the way is that
 * to an address, to; -1: it can not be handed over. A connection that went on in this host's name keeps to that. One of a
 * host or its pods does too: its backend may be where it began, and a host takes
 * nothing from the wire that has an address of its own. */
static __always_inline int hand_over(struct __sk_buff *skb, const struct packet *p,
				     const struct flow *f, const __be32 *to)
{
	struct bpf_redir_neigh hop = {};
	struct way way = {};

	if (f->nat_port || bpf_map_lookup_elem(&node_addrs, p->dst))
		return -1;
	if (bpf_map_lookup_elem(&tunnel_peers, p->src) || find_range(&ranges, p->src))
		return -1;
	if (find_way(skb, p, to, &way))
		return -1;
	if (way.range && !(way.range->flags & RANGE_DIRECT))
		return -1;
	if ((way.range ? way.range->ifindex : way.ifindex) != skb->ifindex)
		return -1;
	/* No other machine knows the address that was called. */
	if (!way.range && !bpf_map_lookup_elem(&tunnel_peers, way.hop))
		return -1;
	if (take_hop(skb, p) || set_dscp(skb, p, HANDED_DSCP))
		return drop(skb, DROP_NOT_REWRITTEN);
	if (way.range)
		return to_range(skb, way.range);
	hop.nh_family = p->v6 ? AF_INET6 : AF_INET;
	if (p->v6)
		set_addr(hop.ipv6_nh, way.hop);
	else
		hop.ipv4_nh = way.hop[3];
	return bpf_redirect_neigh(way.ifindex, &hop, sizeof(hop), 0);
}

#endif
