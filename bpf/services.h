// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* From an address and port to a service, and from a service to a backend. */
#ifndef SHOAL_SERVICES_H
#define SHOAL_SERVICES_H

#include "layout.h"

#define CONNECTION_REFUSED (-111) /* -ECONNREFUSED */
#define ADDRESS_IN_USE (-98) /* -EADDRINUSE */

/* A reader that raced with a change of the service looks again this often. */
#define PICK_TRIES 4

static __always_inline int same_addr(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline int is_unset(const __be32 *a)
{
	return !(a[0] | a[1] | a[2] | a[3]);
}

static __always_inline void set_addr(__be32 *to, const __be32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

/* Tells whether an address that was IPv4 on the wire is in a. */
static __always_inline int is_mapped(const __be32 *a)
{
	return !a[0] && !a[1] && a[2] == V4_MAPPED;
}

static __always_inline int in_node_port_range(__be16 port)
{
	__u16 p = bpf_ntohs(port);

	return p >= node_port_min && p <= node_port_max;
}

static __always_inline struct frontend *node_port_frontend(__be16 port, __u8 proto, __u8 v6)
{
	struct frontend_key key = {.port = port, .proto = proto, .v6 = v6};

	return bpf_map_lookup_elem(&frontends, &key);
}

static __always_inline struct backend *backend_of(__u32 id, __u32 service)
{
	struct backend *b = bpf_map_lookup_elem(&backends, &id);

	if (!b || b->service != service || b->state == BACKEND_GONE)
		return 0;
	return b;
}

/* Any backend of the service that one of these callers gives new connections,
 * each as likely as the next. */
static __always_inline struct backend *pick_backend(const struct service *svc, __u32 service,
						    __u8 callers, __u32 *id)
{
#pragma unroll
	for (int i = 0; i < PICK_TRIES; i++) {
		__u64 extent = *(volatile __u64 *)&svc->extent;
		__u32 count = (__u32)extent;
		__u32 index;
		__u32 *slot;
		struct backend *b;

		if (!count)
			return 0;
		index = (__u32)(extent >> 32) + bpf_get_prandom_u32() % count;
		slot = bpf_map_lookup_elem(&slots, &index);
		if (!slot)
			return 0;
		*id = *slot;
		b = backend_of(*id, service);
		if (b && b->state & callers)
			return b;
	}
	return 0;
}

#endif
