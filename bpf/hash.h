// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* A hash of addresses and ports. */
#ifndef SHOAL_HASH_H
#define SHOAL_HASH_H

#include "packet.h"

/* The finaliser of MurmurHash3, keyed by the cell's seed: equal on all hosts
 * whatever their byte order. */
static __always_inline __u32 mix(__u32 h, __u32 word)
{
	h ^= word;
	h ^= h >> 16;
	h *= 0x85ebca6b;
	h ^= h >> 13;
	h *= 0xc2b2ae35;
	h ^= h >> 16;
	return h;
}

static __always_inline __u32 mix_addr(__u32 h, const struct packet *p, const __be32 *addr)
{
	if (p->v6) {
		h = mix(h, bpf_ntohl(addr[0]));
		h = mix(h, bpf_ntohl(addr[1]));
		h = mix(h, bpf_ntohl(addr[2]));
	}
	return mix(h, bpf_ntohl(addr[3]));
}

#endif
