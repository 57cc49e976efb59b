// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Why a packet is dropped or a call refused. Whoever does it names a reason;
 * each is counted per processor, and told of (record.h). netdp takes the names
 * from here: DROP_NO_BACKEND is "no-backend" in metrics and in `shoal flows`.
 */
#ifndef SHOAL_DROP_H
#define SHOAL_DROP_H

#include "record.h"

#define VERDICT_PASS 0 /* TC_ACT_OK: on to the stack */
#define VERDICT_DROP 2 /* TC_ACT_SHOT */

enum drop_reason {
	DROP_NONE,
	DROP_MALFORMED,	     /* a header is cut off, or is none of its protocol */
	DROP_UNKNOWN_FAMILY, /* a pod sent something else than IP or ARP */
	DROP_SPOOFED_SOURCE, /* sent from a pod's address by somebody else */
	DROP_LINK_LOCAL,     /* a pod's IPv6 packet that is for its link alone */
	DROP_NO_BACKEND,     /* the service that was called has no backend */
	DROP_NO_LOCAL_BACKEND, /* only other hosts have backends, and callers keep to this one */
	DROP_SOURCE_RANGE,   /* the caller is in none of the service's source ranges */
	DROP_NO_SOCKET_STORAGE, /* no memory to remember what a socket called */
	DROP_PORT_TAKEN,     /* a process of the host asked for a service's node port */
	DROP_NO_NODE_ADDRESS, /* the host has no address in whose name to pass on */
	DROP_NO_FREE_PORT,   /* all ports to pass connections on by are in use */
	DROP_FLOW_NOT_KEPT,  /* the table of flows took no entry */
	DROP_NO_ROUTE,	     /* no way back to who called */
	DROP_NO_PORTS,	     /* what a pod sent outside has no ports, or is an error about no call */
	DROP_NOT_REWRITTEN,  /* the kernel refused to change the packet */
	DROP_NO_TUNNEL,	     /* the kernel refused to send the packet by the tunnel */
	DROP_TUNNEL_STRANGER, /* came by the tunnel, but from no host of the cell */
	DROP_POLICY_EGRESS,  /* no network policy of the pod that sent it allows it */
	DROP_POLICY_INGRESS, /* no network policy of the pod it is for allows it */
	DROP_NO_PROGRAM,     /* the program that packets to pods end with is missing */
	DROP_NOT_ENCRYPTED,  /* of pods of two hosts, and would travel, or came, in the clear */
	DROP_REASONS,	     /* how many there are */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} drop_counts SEC(".maps");

/* How often each service was called: connections opened and refused. */
struct service_calls {
	__u64 opened;
	__u64 refused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct service_calls);
} service_counts SEC(".maps");

static __always_inline void count_drop(enum drop_reason reason)
{
	__u32 key = reason;
	__u64 *count = bpf_map_lookup_elem(&drop_counts, &key);

	if (count)
		(*count)++;
}

/* Drops a packet: `return drop(skb, DROP_…)`. Not inlined, since it is the rare
 * way out of every program. */
__noinline int drop(struct __sk_buff *skb, enum drop_reason reason)
{
	count_drop(reason);
	note_packet(skb, RECORD_DROP, reason, 0, 0);
	return VERDICT_DROP;
}

static __always_inline void count_opened(__u32 service)
{
	struct service_calls *c = bpf_map_lookup_elem(&service_counts, &service);

	if (c)
		__sync_fetch_and_add(&c->opened, 1);
}

static __always_inline void count_refused(__u32 service)
{
	struct service_calls *c = bpf_map_lookup_elem(&service_counts, &service);

	if (c)
		__sync_fetch_and_add(&c->refused, 1);
	count_drop(DROP_NO_BACKEND);
}

/* Another machine called a service; backend 0: nobody answers. */
static __always_inline void called_by_outside(struct __sk_buff *skb, __u32 service, __u32 backend)
{
	if (!backend) {
		count_refused(service);
		record_packet(skb, RECORD_DROP, DROP_NO_BACKEND, service, 0);
		return;
	}
	count_opened(service);
	if (is_followed())
		record_packet(skb, RECORD_OUTSIDE, DROP_NONE, service, backend);
}

#endif
