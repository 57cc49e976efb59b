// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What the programs tell of connections and of packets they drop. Equal news
 * are counted in one entry of `recorded`, and go to the ring buffer at most once
 * in an interval; what is new is bounded per second and processor, so that a
 * flood costs a lookup and no more. Drops are always counted there. All else is
 * looked at only while somebody follows.
 *
 * Addresses are read from the packet itself: a record is made seldom, and so
 * needs nothing of its caller.
 */
#ifndef SHOAL_RECORD_H
#define SHOAL_RECORD_H

#include "layout.h"

enum record_kind {
	RECORD_NONE,
	RECORD_DROP,	/* a packet was dropped, or a call refused; see the reason */
	RECORD_CONNECT, /* a socket called a service, and got a backend */
	RECORD_OUTSIDE, /* another machine called a service, and got a backend */
	RECORD_OPEN,	/* a pod began to talk: a SYN, or the first datagram */
	RECORD_CLOSE,	/* a FIN or RST of a pod */
};

/* New entries of `recorded` per second and processor: more than people read. */
#define RECORDS_PER_SECOND 512

#define SECOND_NS 1000000000ull
/* How soon the same news are told again, with their count. */
#define REPEAT_NS SECOND_NS
#define REPEAT_DATAGRAMS_NS (30 * SECOND_NS)

#define RECORD_ETH_LEN 14
#define RECORD_ETH_IPV4 bpf_htons(0x0800)
#define RECORD_ETH_IPV6 bpf_htons(0x86dd)
#define RECORD_IPV6_LEN 40

struct record_key {
	__be32 src[4]; /* of a socket: zero, it has no address yet */
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 kind;
	__u16 reason;  /* enum drop_reason */
	__u32 service; /* number of the service that was called, 0: none */
	__u32 ifindex; /* where the packet was seen */
	__u64 netns;   /* of a socket: the cookie of its network namespace */
};

struct record_state {
	__u64 first_ns; /* of CLOCK_MONOTONIC */
	__u64 last_ns;
	__u64 told_ns;
	__u64 count;
};

/* One record in the ring buffer. */
struct record {
	struct record_key flow;
	__be32 backend[4];
	__u64 time_ns;
	__u64 count; /* packets or calls like this one until now */
	__be16 backend_port;
	__u16 pad;
	__u32 pad2;
};

/* Has the compiler describe the type, which no map has. */
const struct record *record_described __attribute__((unused));

/* What was not told, per processor. */
struct record_limit {
	__u64 since_ns;
	__u64 used; /* since then */
	__u64 suppressed;
	__u64 lost; /* the ring buffer was full */
};

/* Until when somebody listens. A daemon that follows renews it, so that one
 * that was killed leaves nothing switched on. */
struct follow {
	__u64 until_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024); /* some 5,000 records */
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct record_key);
	__type(value, struct record_state);
} recorded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record_limit);
} record_limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct follow);
} following SEC(".maps");

/* What a record of a packet is made in: it does not fit beside the stack of the
 * programs that drop. Those of packets do not interrupt each other; those of
 * sockets may be interrupted, and use their stack. */
struct record_scratch {
	struct record_key key;
	struct record_key back;
	struct record_state fresh;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record_scratch);
} record_scratch SEC(".maps");

static __always_inline struct record_scratch *scratch_of_cpu(void)
{
	__u32 zero = 0;
	struct record_scratch *s = bpf_map_lookup_elem(&record_scratch, &zero);

	if (s)
		__builtin_memset(s, 0, sizeof(*s));
	return s;
}

static __always_inline int is_followed(void)
{
	__u32 zero = 0;
	struct follow *f = bpf_map_lookup_elem(&following, &zero);

	return f && f->until_ns && bpf_ktime_get_ns() < f->until_ns;
}

static __always_inline struct record_limit *limit_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&record_limits, &zero);
}

static __always_inline int within_limit(__u64 now)
{
	struct record_limit *limit = limit_of_cpu();

	if (!limit)
		return 0;
	if (now - limit->since_ns > SECOND_NS) {
		limit->since_ns = now;
		limit->used = 0;
	}
	if (limit->used >= RECORDS_PER_SECOND) {
		limit->suppressed++;
		return 0;
	}
	limit->used++;
	return 1;
}

/* Tells of an entry. backend is its number, 0: none. */
static __always_inline void tell(const struct record_key *key, __u64 now, __u64 count, __u32 backend)
{
	struct record_limit *limit;
	struct backend *b;
	struct record *r;

	r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);
	if (!r) {
		limit = limit_of_cpu();
		if (limit)
			limit->lost++;
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->flow = *key;
	r->time_ns = now;
	r->count = count;
	if (backend) {
		b = bpf_map_lookup_elem(&backends, &backend);
		if (b) {
			__builtin_memcpy(r->backend, b->addr, sizeof(r->backend));
			r->backend_port = b->port;
		}
	}
	bpf_ringbuf_submit(r, 0);
}

/* Counts an entry, and tells of it when it is time. fresh is room, all zero. */
static __always_inline void note(const struct record_key *key, struct record_state *fresh,
				 __u32 backend)
{
	struct record_state *s = bpf_map_lookup_elem(&recorded, key);
	__u64 now = bpf_ktime_get_ns(), repeat = REPEAT_NS, count = 1;

	if (key->kind == RECORD_OPEN && key->proto != PROTO_TCP)
		repeat = REPEAT_DATAGRAMS_NS;
	if (s) {
		count = s->count + 1;
		__sync_fetch_and_add(&s->count, 1);
		s->last_ns = now;
		if (now - s->told_ns < repeat || !within_limit(now))
			return;
		s->told_ns = now;
	} else {
		if (!within_limit(now))
			return;
		fresh->first_ns = now;
		fresh->last_ns = now;
		fresh->told_ns = now;
		fresh->count = 1;
		bpf_map_update_elem(&recorded, key, fresh, BPF_ANY);
	}
	if (is_followed())
		tell(key, now, count, backend);
}

/* Reads a packet's ends. Returns where its transport header is, 0 without one:
 * another kind of packet, or a later fragment. */
static __always_inline __u32 read_ends(struct __sk_buff *skb, struct record_key *key)
{
	__u32 transport = 0;
	__be16 fragment = 0;
	__u8 byte = 0;

	if (skb->protocol == RECORD_ETH_IPV4) {
		if (bpf_skb_load_bytes(skb, RECORD_ETH_LEN + 12, &key->src[3], 4) ||
		    bpf_skb_load_bytes(skb, RECORD_ETH_LEN + 16, &key->dst[3], 4) ||
		    bpf_skb_load_bytes(skb, RECORD_ETH_LEN + 9, &key->proto, 1) ||
		    bpf_skb_load_bytes(skb, RECORD_ETH_LEN + 6, &fragment, 2) ||
		    bpf_skb_load_bytes(skb, RECORD_ETH_LEN, &byte, 1))
			return 0;
		key->src[2] = V4_MAPPED;
		key->dst[2] = V4_MAPPED;
		if (fragment & bpf_htons(0x1fff))
			return 0;
		transport = RECORD_ETH_LEN + (byte & 0x0f) * 4;
	} else if (skb->protocol == RECORD_ETH_IPV6) {
		if (bpf_skb_load_bytes(skb, RECORD_ETH_LEN + 8, key->src, 16) ||
		    bpf_skb_load_bytes(skb, RECORD_ETH_LEN + 24, key->dst, 16) ||
		    bpf_skb_load_bytes(skb, RECORD_ETH_LEN + 6, &key->proto, 1))
			return 0;
		transport = RECORD_ETH_LEN + RECORD_IPV6_LEN;
	}
	if (key->proto != PROTO_TCP && key->proto != PROTO_UDP)
		return transport;
	if (bpf_skb_load_bytes(skb, transport, &key->sport, 2) ||
	    bpf_skb_load_bytes(skb, transport + 2, &key->dport, 2))
		return 0;
	return transport;
}

static __always_inline int note_packet(struct __sk_buff *skb, enum record_kind kind, __u32 reason,
				       __u32 service, __u32 backend)
{
	struct record_scratch *s = scratch_of_cpu();

	if (!s)
		return 0;
	read_ends(skb, &s->key);
	s->key.kind = (__u8)kind;
	s->key.reason = (__u16)reason;
	s->key.service = service;
	s->key.ifindex = skb->ifindex;
	note(&s->key, &s->fresh, backend);
	return 0;
}

/* A packet in which something was decided. Not inlined: the verifier looks at
 * it once for each program, and its stack is no part of theirs. */
__noinline int record_packet(struct __sk_buff *skb, enum record_kind kind, __u32 reason,
			     __u32 service, __u32 backend)
{
	return note_packet(skb, kind, reason, service, backend);
}

/* A socket of the namespace called a service by the address asked. */
__noinline int record_call(const struct frontend_key *asked, __u64 netns, __u32 reason,
			   __u32 service, __u32 backend)
{
	struct record_key key = {};
	struct record_state fresh = {};

	if (!asked)
		return 0;
	__builtin_memcpy(key.dst, asked->addr, sizeof(key.dst));
	key.dport = asked->port;
	key.proto = asked->proto;
	key.kind = reason ? RECORD_DROP : RECORD_CONNECT;
	key.reason = (__u16)reason;
	key.service = service;
	key.netns = netns;
	note(&key, &fresh, backend);
	return 0;
}

static __always_inline void turn(struct record_key *back, const struct record_key *key)
{
	__builtin_memcpy(back->src, key->dst, sizeof(back->src));
	__builtin_memcpy(back->dst, key->src, sizeof(back->dst));
	back->sport = key->dport;
	back->dport = key->sport;
	back->proto = key->proto;
}

#define RECORD_TCP_FIN 0x01
#define RECORD_TCP_SYN 0x02
#define RECORD_TCP_RST 0x04
#define RECORD_TCP_ACK 0x10

/*
 * What a pod sends, while somebody follows. Answers are no news, and a close is
 * told as who began would see it, once.
 */
__noinline int record_pod(struct __sk_buff *skb)
{
	struct record_scratch *s = scratch_of_cpu();
	__u32 transport;
	__u8 flags = 0;

	if (!s)
		return 0;
	transport = read_ends(skb, &s->key);
	if (!transport)
		return 0;
	s->key.kind = RECORD_OPEN;
	if (s->key.proto == PROTO_TCP) {
		if (bpf_skb_load_bytes(skb, transport + 13, &flags, 1))
			return 0;
		if (flags & (RECORD_TCP_FIN | RECORD_TCP_RST))
			s->key.kind = RECORD_CLOSE;
		else if ((flags & (RECORD_TCP_SYN | RECORD_TCP_ACK)) != RECORD_TCP_SYN)
			return 0;
	}
	if (s->key.proto != PROTO_TCP || s->key.kind == RECORD_CLOSE) {
		turn(&s->back, &s->key);
		s->back.kind = RECORD_OPEN;
		if (bpf_map_lookup_elem(&recorded, &s->back)) {
			if (s->key.kind == RECORD_OPEN)
				return 0;
			s->back.kind = RECORD_CLOSE;
			note(&s->back, &s->fresh, 0);
			return 0;
		}
	}
	note(&s->key, &s->fresh, 0);
	return 0;
}

#endif
