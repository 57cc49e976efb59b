// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * At the tunnel's device. It takes frames from known hosts only, whatever
 * hardware address they are for, so no host needs to know another's; pods get
 * theirs at once, and the rest goes to the stack.
 */
#ifndef SHOAL_OVERLAY_H
#define SHOAL_OVERLAY_H

#include "uplink.h"

#define PACKET_HOST 0

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

SEC("tc")
int overlay_ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	struct pod *pod;
	int verdict;

	if (!from_known_host(skb))
		return drop(skb, DROP_TUNNEL_STRANGER);
	if (parse(skb, &p))
		return drop(skb, DROP_MALFORMED);
	bpf_skb_change_type(skb, PACKET_HOST);
	verdict = from_outside(skb, &p);
	if (verdict != VERDICT_PASS)
		return verdict;
	/* Read again: from_outside may have sent it to another address. */
	if (p.v6 ? bpf_skb_load_bytes(skb, ETH_LEN + IPV6_DST, p.dst, 16)
		 : bpf_skb_load_bytes(skb, ETH_LEN + IP_DST, &p.dst[3], 4))
		return drop(skb, DROP_MALFORMED);
	pod = bpf_map_lookup_elem(&pods, p.dst);
	if (!pod)
		return VERDICT_PASS;
	return redirect_to_pod(skb, pod->ifindex);
}

SEC("tc")
int overlay_egress(struct __sk_buff *skb)
{
	return to_outside(skb);
}

#endif
