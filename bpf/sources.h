// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Ranges of addresses that a service may be called from. */
#ifndef SHOAL_SOURCES_H
#define SHOAL_SOURCES_H

#include "services.h"

#define SOURCE_BITS (64 + 128)

static __always_inline int source_allowed(__u32 service, const __be32 *addr)
{
	struct source_key key = {
		.bits = SOURCE_BITS,
		.service = service,
		.family = !addr[0] && !addr[1] && addr[2] == V4_MAPPED ? 4 : 6,
		.addr = {addr[0], addr[1], addr[2], addr[3]},
	};

	return bpf_map_lookup_elem(&sources, &key) != 0;
}

#endif
