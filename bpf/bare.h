// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * With encryption between hosts nothing of pods travels in the clear. What the
 * routes would send so is dropped: the device that encrypts is gone with the
 * daemon, a host's key is not known yet, or somebody changed the routes. And what
 * comes in the clear with the address of a pod is from nobody who has its key.
 */
#ifndef SHOAL_BARE_H
#define SHOAL_BARE_H

#include "nat.h"

static __always_inline int load_addr(struct __sk_buff *skb, enum end end, __be32 *addr)
{
	if (skb->protocol == ETH_IPV4) {
		addr[0] = addr[1] = 0;
		addr[2] = V4_MAPPED;
		return (int)bpf_skb_load_bytes(skb, ETH_LEN + (end == END_SRC ? IP_SRC : IP_DST),
					       &addr[3], 4);
	}
	if (skb->protocol != ETH_IPV6)
		return -1;
	return (int)bpf_skb_load_bytes(skb, ETH_LEN + (end == END_SRC ? IPV6_SRC : IPV6_DST), addr, 16);
}

/* A packet at an uplink, on its way out. Not inlined, as the next: where nothing is
 * encrypted they cost the programs no stack and no time. */
__noinline int leaves_bare(struct __sk_buff *skb)
{
	struct range *range;
	__be32 addr[4];

	if (load_addr(skb, END_DST, addr))
		return 0;
	range = find_range(&ranges, addr);
	if (!range || !(range->flags & RANGE_WIRE))
		return 0;
	if (!(range->flags & RANGE_HOST))
		return 1;
	/* Hosts call each other plainly. */
	return !load_addr(skb, END_SRC, addr) && bpf_map_lookup_elem(&pods, addr);
}

__noinline int came_bare(struct __sk_buff *skb)
{
	struct range *range;
	__be32 addr[4];

	if (load_addr(skb, END_SRC, addr))
		return 0;
	range = find_range(&ranges, addr);
	return range && (range->flags & (RANGE_WIRE | RANGE_HOST)) == RANGE_WIRE;
}

#endif
