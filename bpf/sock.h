// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Programs at the cgroup: a socket that calls a service is pointed at one of
 * its backends once, when it connects (or, unconnected UDP, when it sends).
 * Packets then need no translation. An IPv6 socket that calls an IPv4 service
 * by its mapped address takes the same way.
 */
#ifndef SHOAL_SOCK_H
#define SHOAL_SOCK_H

#include "affinity.h"
#include "drop.h"
#include "sources.h"

#define SOCK_ALLOW 1
#define SOCK_DENY 0

static __always_inline __u8 service_proto(__u32 protocol)
{
	if (protocol == PROTO_MPTCP)
		return PROTO_TCP;
	return (__u8)protocol;
}

static __always_inline int is_loopback(const __be32 *addr)
{
	if (addr[2] == V4_MAPPED)
		return (addr[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !addr[0] && !addr[1] && !addr[2] && addr[3] == bpf_htonl(1);
}

/* Loopback means this host only in the host's own namespace: a pod's loopback
 * is the pod's. */
static __always_inline int is_node_address(struct bpf_sock_addr *ctx, const __be32 *addr)
{
	if (is_loopback(addr))
		return bpf_get_netns_cookie(ctx) == host_netns_cookie;
	return bpf_map_lookup_elem(&node_addrs, addr) != 0;
}

static __always_inline struct frontend *find_frontend(struct bpf_sock_addr *ctx,
						      struct frontend_key *key)
{
	struct frontend *fe = bpf_map_lookup_elem(&frontends, key);
	__u64 cookie;

	if (fe && is_loopback(key->addr) && !is_node_address(ctx, key->addr))
		return 0;
	if (!fe && in_node_port_range(key->port) && is_node_address(ctx, key->addr))
		fe = node_port_frontend(key->port, key->proto, !is_mapped(key->addr));
	if (!fe)
		return 0;
	cookie = bpf_get_netns_cookie(ctx);
	if (bpf_map_lookup_elem(&bypass, &cookie))
		return 0;
	return fe;
}

static __always_inline void fill(struct translation *t, const struct frontend_key *key,
				 __u32 service, const struct backend *b, __u32 id)
{
	__builtin_memcpy(t->service_addr, key->addr, sizeof(key->addr));
	__builtin_memcpy(t->backend_addr, b->addr, sizeof(b->addr));
	t->service_port = key->port;
	t->backend_port = b->port;
	t->service = service;
	t->backend = id;
}

/* A namespace that is not known has no address in any range. */
static __always_inline int caller_allowed(struct bpf_sock_addr *ctx, const struct frontend_key *key,
					  const struct frontend *fe)
{
	struct caller *caller;
	__u64 cookie;

	if (!(fe->flags & FRONTEND_SOURCES))
		return 1;
	cookie = bpf_get_netns_cookie(ctx);
	caller = bpf_map_lookup_elem(&callers, &cookie);
	if (!caller)
		return 0;
	return source_allowed(fe->service, key->addr[2] == V4_MAPPED ? caller->ipv4 : caller->ipv6);
}

/* The backend of a new connection. */
static __always_inline struct backend *choose(struct bpf_sock_addr *ctx, const struct frontend_key *key,
					      const struct frontend *fe, __u32 *id)
{
	struct affinity_key client = {.service = fe->service, .inside = 1};
	struct service *svc;
	struct backend *b;
	__u64 cookie;

	if (!caller_allowed(ctx, key, fe))
		return 0;
	svc = bpf_map_lookup_elem(&services, &client.service);
	if (!svc)
		return 0;
	if (!svc->affinity_seconds)
		return pick_backend(svc, client.service, BACKEND_INSIDE, id);
	cookie = bpf_get_netns_cookie(ctx);
	client.client[0] = (__u32)(cookie >> 32);
	client.client[1] = (__u32)cookie;
	b = kept_backend(&client, svc->affinity_seconds, BACKEND_INSIDE, id);
	if (b)
		return b;
	b = pick_backend(svc, client.service, BACKEND_INSIDE, id);
	if (b)
		keep_backend(&client, *id);
	return b;
}

static __always_inline enum drop_reason why_refused(struct bpf_sock_addr *ctx,
						    const struct frontend_key *key,
						    const struct frontend *fe)
{
	return caller_allowed(ctx, key, fe) ? DROP_NO_BACKEND : DROP_SOURCE_RANGE;
}

static __always_inline int refuse(struct bpf_sock_addr *ctx, const struct frontend_key *asked,
				  __u32 service, enum drop_reason reason)
{
	if (reason == DROP_NO_BACKEND)
		count_refused(service);
	else
		count_drop(reason);
	record_call(asked, bpf_get_netns_cookie(ctx), reason, service, 0);
	bpf_set_retval(CONNECTION_REFUSED);
	return SOCK_DENY;
}

/* A socket has got a backend. */
static __always_inline void opened(struct bpf_sock_addr *ctx, const struct frontend_key *asked,
				   __u32 service, __u32 backend)
{
	count_opened(service);
	if (is_followed())
		record_call(asked, bpf_get_netns_cookie(ctx), DROP_NONE, service, backend);
}

/* Turns key into the backend's address and port. */
static __always_inline int connect_service(struct bpf_sock_addr *ctx, struct frontend_key *key)
{
	struct frontend *fe = find_frontend(ctx, key);
	struct translation *peer;
	struct backend *b;
	__u32 id = 0;

	if (!fe) {
		/* A socket that goes on to another peer must not keep the
		 * name of the last one. */
		if (key->proto == PROTO_UDP && ctx->sk)
			bpf_sk_storage_delete(&socket_peer, ctx->sk);
		return SOCK_ALLOW;
	}
	b = choose(ctx, key, fe, &id);
	if (!b)
		return refuse(ctx, key, fe->service, why_refused(ctx, key, fe));
	opened(ctx, key, fe->service, id);
	if (ctx->sk) {
		peer = bpf_sk_storage_get(&socket_peer, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (peer)
			fill(peer, key, fe->service, b, id);
	}
	__builtin_memcpy(key->addr, b->addr, sizeof(b->addr));
	key->port = b->port;
	return SOCK_ALLOW;
}

/* The backend this socket has already sent to for that service, as long as it
 * takes new traffic: a UDP conversation stays with one backend. */
static __always_inline struct translation *sent_before(struct sent *sent,
						       const struct frontend_key *key, __u32 service)
{
#pragma unroll
	for (int i = 0; i < SENT_MAX; i++) {
		struct translation *t = &sent->entry[i];
		struct backend *b;

		if (t->service != service || t->service_port != key->port ||
		    !same_addr(t->service_addr, key->addr))
			continue;
		b = backend_of(t->backend, service);
		if (b && b->state & BACKEND_INSIDE && b->port == t->backend_port &&
		    same_addr(b->addr, t->backend_addr))
			return t;
	}
	return 0;
}

static __always_inline int send_service(struct bpf_sock_addr *ctx, struct frontend_key *key)
{
	struct frontend *fe = find_frontend(ctx, key);
	struct translation *t;
	struct sent *sent;
	struct backend *b;
	__u32 id = 0;

	if (!fe || !ctx->sk)
		return SOCK_ALLOW;
	sent = bpf_sk_storage_get(&socket_sent, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!sent)
		return refuse(ctx, key, fe->service, DROP_NO_SOCKET_STORAGE);
	t = sent_before(sent, key, fe->service);
	if (!t) {
		b = choose(ctx, key, fe, &id);
		if (!b)
			return refuse(ctx, key, fe->service, why_refused(ctx, key, fe));
		opened(ctx, key, fe->service, id);
		t = &sent->entry[sent->next & (SENT_MAX - 1)];
		sent->next++;
		fill(t, key, fe->service, b, id);
	}
	__builtin_memcpy(key->addr, t->backend_addr, sizeof(key->addr));
	key->port = t->backend_port;
	return SOCK_ALLOW;
}

static __always_inline int is_backend(const struct translation *t, const struct frontend_key *key)
{
	return t->service && t->backend_port == key->port && same_addr(t->backend_addr, key->addr);
}

static __always_inline void restore(struct frontend_key *key, const struct translation *t)
{
	__builtin_memcpy(key->addr, t->service_addr, sizeof(key->addr));
	key->port = t->service_port;
}

/* Turns the backend in key back into the service it was called by. */
static __always_inline int reverse(struct bpf_sock_addr *ctx, struct frontend_key *key, int sends)
{
	struct translation *peer;
	struct sent *sent;

	if (!ctx->sk)
		return 0;
	peer = bpf_sk_storage_get(&socket_peer, ctx->sk, 0, 0);
	if (peer && is_backend(peer, key)) {
		restore(key, peer);
		return 1;
	}
	if (!sends)
		return 0;
	sent = bpf_sk_storage_get(&socket_sent, ctx->sk, 0, 0);
	if (!sent)
		return 0;
#pragma unroll
	for (int i = 0; i < SENT_MAX; i++) {
		if (is_backend(&sent->entry[i], key)) {
			restore(key, &sent->entry[i]);
			return 1;
		}
	}
	return 0;
}

static __always_inline struct frontend_key key4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = {
		.addr = {0, 0, V4_MAPPED, ctx->user_ip4},
		.port = (__be16)ctx->user_port,
		.proto = service_proto(ctx->protocol),
	};

	return key;
}

static __always_inline void store4(struct bpf_sock_addr *ctx, const struct frontend_key *key)
{
	ctx->user_ip4 = key->addr[3];
	ctx->user_port = key->port;
}

static __always_inline struct frontend_key key6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = {
		.addr = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]},
		.port = (__be16)ctx->user_port,
		.proto = service_proto(ctx->protocol),
	};

	return key;
}

static __always_inline void store6(struct bpf_sock_addr *ctx, const struct frontend_key *key)
{
	ctx->user_ip6[0] = key->addr[0];
	ctx->user_ip6[1] = key->addr[1];
	ctx->user_ip6[2] = key->addr[2];
	ctx->user_ip6[3] = key->addr[3];
	ctx->user_port = key->port;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key4(ctx);
	int verdict = connect_service(ctx, &key);

	store4(ctx, &key);
	return verdict;
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key6(ctx);
	int verdict = connect_service(ctx, &key);

	store6(ctx, &key);
	return verdict;
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key4(ctx);
	int verdict = send_service(ctx, &key);

	store4(ctx, &key);
	return verdict;
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key6(ctx);
	int verdict = send_service(ctx, &key);

	store6(ctx, &key);
	return verdict;
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key4(ctx);

	if (reverse(ctx, &key, 1))
		store4(ctx, &key);
	return SOCK_ALLOW;
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key6(ctx);

	if (reverse(ctx, &key, 1))
		store6(ctx, &key);
	return SOCK_ALLOW;
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key4(ctx);

	if (reverse(ctx, &key, 0))
		store4(ctx, &key);
	return SOCK_ALLOW;
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = key6(ctx);

	if (reverse(ctx, &key, 0))
		store6(ctx, &key);
	return SOCK_ALLOW;
}

/* From here on the kernel picks ports for programs that name none
 * (net.ipv4.ip_local_port_range as it is by default): these must not fail. */
#define FIRST_LOCAL_PORT 32768

/* Whether a service has a port at that address of the host's own, as hostPorts do. */
static __always_inline int own_frontend(const __be32 *addr, __be16 port, __u8 proto)
{
	struct frontend_key key = {.port = port, .proto = proto};
	struct frontend *fe;

	if (bpf_ntohs(port) >= FIRST_LOCAL_PORT || is_unset(addr))
		return 0;
	set_addr(key.addr, addr);
	fe = bpf_map_lookup_elem(&frontends, &key);
	return fe && fe->flags & FRONTEND_OWN;
}

/* A socket of IPv6 may get IPv4's callers too. */
static __always_inline int is_taken(const __be32 *addr, __be16 port, __u8 proto, int v6)
{
	__be32 own4[4], own6[4];

	if (in_node_port_range(port) &&
	    (node_port_frontend(port, proto, 0) || (v6 && node_port_frontend(port, proto, 1))))
		return 1;
	if (!is_unset(addr))
		return own_frontend(addr, port, proto);
	for (int i = 0; i < 4; i++) {
		own4[i] = node_ipv4[i];
		own6[i] = node_ipv6[i];
	}
	return own_frontend(own4, port, proto) || (v6 && own_frontend(own6, port, proto));
}

/* A process of the host may not take a port that a service or a hostPort holds:
 * its callers would be sent there instead. addr is all zero for any. */
static __always_inline int guard_port(struct bpf_sock *ctx, const __be32 *addr, int v6)
{
	__be16 port = bpf_htons((__u16)ctx->src_port);

	if (bpf_get_netns_cookie(ctx) != host_netns_cookie ||
	    !is_taken(addr, port, service_proto(ctx->protocol), v6))
		return SOCK_ALLOW;
	count_drop(DROP_PORT_TAKEN);
	bpf_set_retval(ADDRESS_IN_USE);
	return SOCK_DENY;
}

SEC("cgroup/post_bind4")
int sock_post_bind4(struct bpf_sock *ctx)
{
	__be32 addr[4] = {0, 0, V4_MAPPED, ctx->src_ip4};

	if (!addr[3])
		addr[2] = 0;
	return guard_port(ctx, addr, 0);
}

SEC("cgroup/post_bind6")
int sock_post_bind6(struct bpf_sock *ctx)
{
	__be32 addr[4] = {ctx->src_ip6[0], ctx->src_ip6[1], ctx->src_ip6[2], ctx->src_ip6[3]};

	return guard_port(ctx, addr, 1);
}

#endif
