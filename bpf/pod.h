// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * At the host's end of a pod's link, on what the pod sends. A pod may use its
 * own address only; to another pod of this host a packet goes straight, to
 * everybody else through the host's routes.
 */
#ifndef SHOAL_POD_H
#define SHOAL_POD_H

#include "packet.h"

SEC("tc")
int pod_egress(struct __sk_buff *skb)
{
	struct pod *self, *peer;
	struct ip_header ip;

	if (skb->protocol == ETH_ARP)
		return VERDICT_PASS;
	if (skb->protocol != ETH_IPV4)
		return VERDICT_DROP;
	if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
		return VERDICT_DROP;
	self = bpf_map_lookup_elem(&pods, &ip.src);
	if (!self || self->ifindex != skb->ifindex)
		return VERDICT_DROP;
	peer = bpf_map_lookup_elem(&pods, &ip.dst);
	if (!peer)
		return VERDICT_PASS;
	return redirect_to_pod(skb, peer->ifindex);
}

#endif
