// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * At the host's end of a pod's link, on what the pod sends. A pod may use its
 * own addresses only. To pods, here or on another host, a packet goes past this
 * host's stack, and so does one to a host behind the tunnel; to everybody else it
 * goes by the host's routes. Policy may forbid any (policy.h).
 */
#ifndef SHOAL_POD_H
#define SHOAL_POD_H

#include "policy.h"

#define ICMPV6_SOLICITATION 135
#define ICMPV6_ADVERTISEMENT 136

/* Neighbour discovery (RFC 4861) stays on the link, like ARP, and may come from
 * an address that only the link knows. Nothing else of that scope goes further,
 * and of routers a pod has nothing to say. */
static __always_inline int is_neighbour_discovery(struct __sk_buff *skb, const struct packet *p)
{
	__u32 start = bpf_ntohl(p->dst[0]);
	__u8 type;

	if (p->proto != PROTO_ICMPV6 ||
	    ((start & 0xffc00000) != 0xfe800000 && (start & 0xff0f0000) != 0xff020000))
		return 0;
	if (bpf_skb_load_bytes(skb, p->transport, &type, 1))
		return 0;
	return type == ICMPV6_SOLICITATION || type == ICMPV6_ADVERTISEMENT;
}

/* What a pod's own stack sends that is for its link alone, such as reports of
 * multicast groups. */
static __always_inline int stays_on_link(const struct packet *p)
{
	__u32 from = bpf_ntohl(p->src[0]), to = bpf_ntohl(p->dst[0]);

	return (from & 0xffc00000) == 0xfe800000 || (to & 0xff0f0000) == 0xff020000;
}

/* What is too large is the stack's, which tells the pod; to a host it goes in
 * pieces, since the stack knows no way through the tunnel to that. */
static __always_inline int to_other_host(struct __sk_buff *skb, const struct packet *p)
{
	struct range *range = find_range(&ranges, p->dst);
	__u32 mtu = 0;
	int verdict;
	long unfit;

	if (!range || range->flags & RANGE_OWN)
		return VERDICT_PASS;
	if (!(range->flags & RANGE_HOST) && range->ifindex) {
		/* Where packets have no hardware header, this one's does not count. Of
		 * segments it never does, and the helper takes no difference with them. */
		if (range->flags & RANGE_WIRE && !skb->gso_size)
			unfit = bpf_check_mtu(skb, range->ifindex, &mtu, -ETH_LEN, 0);
		else
			unfit = bpf_check_mtu(skb, range->ifindex, &mtu, 0, BPF_MTU_CHK_SEGS);
		/* Gone with the daemon: the stack would know another way. */
		if (unfit < 0 && range->flags & RANGE_WIRE)
			return drop(skb, DROP_NOT_ENCRYPTED);
		if (unfit)
			return VERDICT_PASS;
		/* What is for the host itself may need to go in pieces: the device's. */
		if (!(range->flags & (RANGE_WIRE | RANGE_DIRECT))) {
			verdict = encapsulate(skb, range->host[0]);
			if (verdict >= 0)
				return verdict;
		}
	}
	return to_range(skb, range);
}

SEC("tc")
int pod_egress(struct __sk_buff *skb)
{
	struct packet p = {.ip = ETH_LEN};
	struct fragment f = {};
	struct pod *self, *peer;
	enum drop_reason reason;

	if (skb->protocol == ETH_ARP)
		return VERDICT_PASS;
	if (skb->protocol == ETH_IPV6) {
		if (load_ipv6(skb, &p, &f))
			return drop(skb, DROP_MALFORMED);
		if (is_neighbour_discovery(skb, &p))
			return VERDICT_PASS;
	} else if (skb->protocol != ETH_IPV4 || parse_ipv4(skb, &p, &f)) {
		return drop(skb, skb->protocol == ETH_IPV4 ? DROP_MALFORMED : DROP_UNKNOWN_FAMILY);
	}
	if (transport_room(skb, &p, &f) < 0)
		return drop(skb, DROP_MALFORMED);
	self = bpf_map_lookup_elem(&pods, p.src);
	if (!self || self->ifindex != skb->ifindex)
		return drop(skb, stays_on_link(&p) ? DROP_LINK_LOCAL : DROP_SPOOFED_SOURCE);
	reason = policy_forbids(skb, 1);
	if (reason)
		return drop(skb, reason);
	if (is_followed())
		record_pod(skb);
	peer = bpf_map_lookup_elem(&pods, p.dst);
	if (!peer)
		return to_other_host(skb, &p);
	return hand_to_pod(skb, peer->ifindex);
}

#endif
