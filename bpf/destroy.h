// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Ends UDP sockets that are connected to a backend which left its service.
 * They would send into nothing for ever: UDP has nobody to tell them. netdp
 * runs this in every network namespace after a UDP backend went. Needs
 * bpf_sock_destroy (Linux 6.5); without it the datapath works, and says so.
 */
#ifndef SHOAL_DESTROY_H
#define SHOAL_DESTROY_H

#include "services.h"

/* Only the names matter to the kernel's type check. */
struct sock_common {
	int unused;
} __attribute__((preserve_access_index));

struct udp_sock;

struct bpf_iter__udp {
	void *meta;
	struct udp_sock *udp_sk;
};

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* Whether its numbers are those of what it holds. */
static __always_inline int is_served(const struct translation *t)
{
	struct backend *b = backend_of(t->backend, t->service);

	return b && b->port == t->backend_port && same_addr(b->addr, t->backend_addr);
}

struct renumbering {
	struct translation *of;
	__u32 service;
	__u32 first; /* of its slots */
};

static long renumber_try(__u32 index, struct renumbering *r)
{
	__u32 slot = r->first + index;
	__u32 *id = bpf_map_lookup_elem(&slots, &slot);
	struct backend *b = id ? backend_of(*id, r->service) : 0;

	if (!b || b->port != r->of->backend_port || !same_addr(b->addr, r->of->backend_addr))
		return 0;
	r->of->service = r->service;
	r->of->backend = *id;
	return 1;
}

/* Services and backends may have other numbers since the socket called, as when they
 * were deleted and made again. What is called by its address now says them. */
static __always_inline void renumber(struct translation *t)
{
	struct frontend_key key = {.port = t->service_port, .proto = PROTO_UDP};
	struct renumbering r = {.of = t};
	struct frontend *fe;
	struct service *svc;
	__u64 extent, count;

	set_addr(key.addr, t->service_addr);
	fe = bpf_map_lookup_elem(&frontends, &key);
	if (!fe && in_node_port_range(key.port))
		fe = node_port_frontend(key.port, key.proto, !is_mapped(key.addr));
	if (!fe)
		return;
	r.service = fe->service;
	svc = bpf_map_lookup_elem(&services, &r.service);
	if (!svc)
		return;
	extent = *(volatile __u64 *)&svc->extent;
	r.first = (__u32)(extent >> 32);
	count = (__u32)extent;
	barrier_var(count); /* the verifier's own bpf_loop looks at the upper half too */
	bpf_loop(count, renumber_try, &r, 0);
}

SEC("iter/udp")
int destroy_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *sk = ctx->udp_sk;
	struct translation *t;

	if (!sk)
		return 0;
	t = bpf_sk_storage_get(&socket_peer, sk, 0, 0);
	if (!t || is_served(t))
		return 0;
	renumber(t);
	if (!is_served(t))
		bpf_sock_destroy((struct sock_common *)sk);
	return 0;
}

#endif
