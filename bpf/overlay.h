// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * At the tunnel's device. It takes frames from known hosts only, whatever
 * hardware address they are for, so no host needs to know another's; pods get
 * theirs at once, and the rest goes to the stack.
 */
#ifndef SHOAL_OVERLAY_H
#define SHOAL_OVERLAY_H

#include "uplink.h"

/* Not inlined: the program below has no stack to spare. */
__noinline int from_known_host(struct __sk_buff *skb)
{
	struct bpf_tunnel_key tunnel = {};
	__be32 remote[4] = {0, 0, V4_MAPPED, 0};

	if (bpf_skb_get_tunnel_key(skb, &tunnel, __builtin_offsetof(struct bpf_tunnel_key, local_ipv4), 0))
		return 0;
	remote[3] = bpf_htonl(tunnel.remote_ipv4);
	return tunnel.tunnel_id == tunnel_id && bpf_map_lookup_elem(&tunnel_peers, remote);
}

/* What came by a tunnel, with a hardware header in front; cb[CB_TUNNEL] is set. */
static __always_inline int from_tunnel(struct __sk_buff *skb)
{
	struct packet p = {};
	int verdict;

	if (parse(skb, &p))
		return drop(skb, DROP_MALFORMED);
	bpf_skb_change_type(skb, PACKET_HOST);
	verdict = from_outside(skb, &p);
	if (verdict != VERDICT_PASS)
		return verdict;
	return to_own_pod(skb, &p);
}

SEC("tc")
int overlay_ingress(struct __sk_buff *skb)
{
	if (!from_known_host(skb))
		return drop(skb, DROP_TUNNEL_STRANGER);
	if (encrypted && came_bare(skb))
		return drop(skb, DROP_NOT_ENCRYPTED);
	skb->cb[CB_TUNNEL] = 0;
	return from_tunnel(skb);
}

/* What the uplink's program has taken out of the tunnel, put together. */
SEC("tc")
int gather_ingress(struct __sk_buff *skb)
{
	const struct gathered *g = (void *)(long)skb->data;

	if ((void *)(g + 1) > (void *)(long)skb->data_end)
		return drop(skb, DROP_MALFORMED);
	skb->cb[CB_TUNNEL] = g->sender;
	if (encrypted && came_bare(skb))
		return drop(skb, DROP_NOT_ENCRYPTED);
	bpf_set_hash_invalid(skb); /* it was for the gathering */
	return from_tunnel(skb);
}

SEC("tc")
int overlay_egress(struct __sk_buff *skb)
{
	if (encrypted && leaves_bare(skb))
		return drop(skb, DROP_NOT_ENCRYPTED);
	return to_outside(skb);
}

#endif
