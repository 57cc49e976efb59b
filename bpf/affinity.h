// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Session affinity: a client keeps its backend while that one takes new
 * connections of it, until the service was not called for the time it sets. As
 * with kube-proxy, each new connection begins that time again.
 */
#ifndef SHOAL_AFFINITY_H
#define SHOAL_AFFINITY_H

#include "services.h"

#define NANOSECONDS 1000000000ULL

static __always_inline struct backend *kept_backend(const struct affinity_key *key, __u32 seconds,
						    __u8 callers, __u32 *id)
{
	struct affinity *kept = bpf_map_lookup_elem(&affinities, key);
	__u64 now = bpf_ktime_get_ns();
	struct backend *b;

	if (!kept || now - kept->seen_ns > seconds * NANOSECONDS)
		return 0;
	*id = kept->backend;
	b = backend_of(*id, key->service);
	if (!b || !(b->state & callers))
		return 0;
	kept->seen_ns = now;
	return b;
}

/* Without an entry the client may get another backend the next time. */
static __always_inline void keep_backend(const struct affinity_key *key, __u32 id)
{
	struct affinity kept = {.seen_ns = bpf_ktime_get_ns(), .backend = id};

	bpf_map_update_elem(&affinities, key, &kept, BPF_ANY);
}

#endif
