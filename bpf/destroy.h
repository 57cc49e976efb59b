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

SEC("iter/udp")
int destroy_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *sk = ctx->udp_sk;
	struct translation *t;
	struct backend *b;

	if (!sk)
		return 0;
	t = bpf_sk_storage_get(&socket_peer, sk, 0, 0);
	if (!t)
		return 0;
	b = backend_of(t->backend, t->service);
	if (b && b->port == t->backend_port && same_addr(b->addr, t->backend_addr))
		return 0;
	bpf_sock_destroy((struct sock_common *)sk);
	return 0;
}

#endif
