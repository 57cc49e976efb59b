// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Connections that go on in this host's name: those from other machines whose
 * backend is on another host, and those of pods to the world outside
 * (masquerade.h). They go on from a port of this host's (natport.h), and the
 * answers find the way back by it. An echo's number is taken like a port.
 */
#ifndef SHOAL_NAT_H
#define SHOAL_NAT_H

#include "natport.h"

#define AF_INET 2
#define AF_INET6 10

/* Where a packet to an address leaves this host. */
struct way {
	const struct range *range; /* to a pod of another host; null: ifindex says it */
	__u32 ifindex;
	__be32 hop[4]; /* without a range: the next machine on the link */
};

/* The entry of one of the maps by range that holds an address. */
static __always_inline void *find_range(void *map, const __be32 *addr)
{
	struct range_key key = {.bits = 128};

	set_addr(key.addr, addr);
	return bpf_map_lookup_elem(map, &key);
}

static __always_inline int find_way(struct __sk_buff *skb, const struct packet *p,
				    const __be32 *addr, struct way *way)
{
	struct range *range = find_range(&ranges, addr);
	struct bpf_fib_lookup fib = {};
	long found;

	if (range && !(range->flags & (RANGE_HOST | RANGE_OWN))) {
		way->range = range;
		return 0;
	}
	fib.l4_protocol = p->proto;
	fib.ifindex = skb->ingress_ifindex ? skb->ingress_ifindex : skb->ifindex;
	if (p->v6) {
		fib.family = AF_INET6;
		set_addr(fib.ipv6_src, p->src);
		set_addr(fib.ipv6_dst, addr);
	} else {
		fib.family = AF_INET;
		fib.ipv4_src = p->src[3];
		fib.ipv4_dst = addr[3];
	}
	found = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return -1;
	way->ifindex = fib.ifindex;
	way->range = 0;
	if (p->v6) {
		set_addr(way->hop, fib.ipv6_dst);
	} else {
		way->hop[0] = way->hop[1] = 0;
		way->hop[2] = V4_MAPPED;
		way->hop[3] = fib.ipv4_dst;
	}
	return 0;
}

/* No device has these hardware addresses: the tunnel drops what seems to come
 * from itself, and takes what is for others (overlay.h). */
#define NO_DEVICE {0x02, 0x73, 0x68, 0x6f, 0x61, 0x04, 0x02, 0x73, 0x68, 0x6f, 0x61, 0x03}

static __always_inline int into_tunnel(struct __sk_buff *skb, const struct range *range)
{
	static const __u8 ethernet[12] = NO_DEVICE;
	struct bpf_tunnel_key key = {
		.tunnel_id = tunnel_id,
		.remote_ipv4 = bpf_ntohl(range->host[0]),
		.local_ipv4 = bpf_ntohl(node_ipv4[3]),
		.tunnel_ttl = 64,
	};

	if (bpf_skb_store_bytes(skb, 0, ethernet, sizeof(ethernet), 0))
		return drop(skb, DROP_NOT_REWRITTEN);
	/* Before Linux 6.0 the source cannot be named; the routes decide it. */
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) &&
	    bpf_skb_set_tunnel_key(skb, &key, __builtin_offsetof(struct bpf_tunnel_key, local_ipv4),
				   BPF_F_ZERO_CSUM_TX))
		return drop(skb, DROP_NO_TUNNEL);
	return bpf_redirect(range->ifindex, 0);
}

/* Past the host's stack to another host; only its neighbour is looked up. */
static __always_inline int to_range(struct __sk_buff *skb, const struct range *range)
{
	if (range->flags & RANGE_WIRE)
		return range->ifindex ? bpf_redirect(range->ifindex, 0) : drop(skb, DROP_NOT_ENCRYPTED);
	if (!(range->flags & RANGE_DIRECT))
		return into_tunnel(skb, range);
	return bpf_redirect_neigh(range->ifindex, (struct bpf_redir_neigh *)&range->family,
				  sizeof(struct bpf_redir_neigh), 0);
}

/* Straight to the device, past the stack: it would refuse a packet that comes
 * from outside with an address of the host itself. */
static __always_inline int leave(struct __sk_buff *skb, const struct way *way)
{
	if (way->range)
		return to_range(skb, way->range);
	return bpf_redirect_neigh(way->ifindex, 0, 0, 0);
}

/* This host's own address of the packet's family; all zero: it has none. */
static __always_inline void own_address(const struct packet *p, __be32 *own)
{
	for (int i = 0; i < 4; i++)
		own[i] = p->v6 ? node_ipv6[i] : node_ipv4[i];
}

/* As a router does; one hop is what is left in the end. */
static __always_inline int take_hop(struct __sk_buff *skb, const struct packet *p)
{
	/* With what follows it IPv4's makes one word of the checksum. */
	__u32 at = p->ip + (p->v6 ? 6 : 8);
	__be16 old, word;

	if (bpf_skb_load_bytes(skb, at, &old, 2))
		return -1;
	/* IPv6 has it in the lower half, after the next header's number. */
	word = p->v6 ? bpf_htons(bpf_ntohs(old) - 1) : bpf_htons(bpf_ntohs(old) - 0x100);
	if ((p->v6 ? bpf_ntohs(old) & 0xff : bpf_ntohs(old) >> 8) <= 1)
		return -1;
	if (!p->v6 && bpf_l3_csum_replace(skb, p->ip + IP_CHECKSUM, old, word, 2))
		return -1;
	return bpf_skb_store_bytes(skb, at, &word, 2, p->v6 ? BPF_F_RECOMPUTE_CSUM : 0);
}

/* Sends a call on to its backend, f, which is on another machine. A hop older: that
 * may be the address of a service there, whose backend is a service here. */
static __always_inline int pass_on(struct __sk_buff *skb, const struct packet *p,
				   const struct flow_key *key, struct flow *f)
{
	struct way way = {};
	__be32 own[4];
	__be16 port;

	if (find_way(skb, p, f->addr, &way)) {
		/* No route: the stack tells the caller. */
		if (rewrite(skb, p, END_DST, f->addr, f->port))
			return drop(skb, DROP_NOT_REWRITTEN);
		return VERDICT_PASS;
	}
	own_address(p, own);
	if (is_unset(own))
		return drop(skb, DROP_NO_NODE_ADDRESS);
	port = nat_port(p, f, own, 0);
	if (!port)
		return drop(skb, DROP_NO_FREE_PORT);
	if (port != f->nat_port) {
		f->nat_port = port;
		if (bpf_map_update_elem(&flows, key, f, BPF_ANY))
			return drop(skb, DROP_FLOW_NOT_KEPT);
	}
	if (take_hop(skb, p) || rewrite(skb, p, END_DST, f->addr, f->port) ||
	    rewrite(skb, p, END_SRC, own, port))
		return drop(skb, DROP_NOT_REWRITTEN);
	return leave(skb, &way);
}

static __always_inline struct nat *nat_of_answer(const struct packet *p)
{
	struct flow_key key = key_of(p, FLOW_REPLY);

	return bpf_map_lookup_elem(&nats, &key);
}

/* Sends an answer back to who called. */
static __always_inline int pass_back(struct __sk_buff *skb, const struct packet *p, struct nat *n)
{
	struct nat to = *n;
	struct way way = {};
	struct pod *pod;

	nat_seen(n, p, NAT_BACKEND_DONE, now_seconds());
	pod = bpf_map_lookup_elem(&pods, to.client);
	if (!pod && find_way(skb, p, to.client, &way))
		return drop(skb, DROP_NO_ROUTE);
	if (rewrite(skb, p, END_SRC, to.called, to.called_port) ||
	    rewrite(skb, p, END_DST, to.client, to.client_port))
		return drop(skb, DROP_NOT_REWRITTEN);
	if (pod)
		return redirect_to_pod(skb, pod->ifindex);
	return leave(skb, &way);
}

#endif
