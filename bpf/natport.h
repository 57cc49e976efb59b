// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The ports of this host's by which connections of others go on (nat.h). They
 * are taken for each destination anew, so there are nat_port_max - nat_port_min
 * + 1 at once for each. They lie below the range that the kernel gives to
 * programs of the host (net.ipv4.ip_local_port_range), so an answer can not be
 * meant for a program.
 *
 * Of each pair of neighbouring ports a caller may have one, which a hash of its
 * address says: half of all, and another half than others have. Who takes all it
 * can leaves to every other caller half of that one's ports, and nothing needs
 * to be counted.
 */
#ifndef SHOAL_NATPORT_H
#define SHOAL_NATPORT_H

#include "hash.h"

/* How many ports are tried for a new connection. With nine of ten in use, all
 * tries fail for one in 5 thousand (0.9^80); it is dropped, and tried again. */
#define NAT_TRIES 80

/*
 * When a port that somebody wants may be taken from a connection that was not
 * heard of for so long. One that was never open counts little, or a flood from
 * forged addresses or of a pod would hold all ports; but a SYN is sent again
 * within 4 s twice (RFC 6298, section 5.5), and keeps its port so far. After a
 * close, the backend keeps the pair for 60 s (TIME_WAIT). UDP as in the kernel's
 * own tracking, which also knows a stream by what follows an answer. An open TCP
 * connection that is idle for longer than the default keep-alive (2 h) may lose
 * its port.
 */
#define NAT_OPENING_SECONDS 5
#define NAT_CLOSED_SECONDS 60
#define NAT_UDP_SECONDS 30
#define NAT_UDP_STREAM_SECONDS 120
#define NAT_TCP_SECONDS (3 * 3600)

/* Without any free port, one of a connection that was closed so long ago will do:
 * a backend that still keeps the pair makes the new SYN be sent twice (RFC 9293,
 * section 3.10.7.4), and a SYN that is dropped is sent twice too. */
#define NAT_REUSE_SECONDS 2

#define NAT_DONE (NAT_CLIENT_DONE | NAT_BACKEND_DONE)

static __always_inline __u32 now_seconds(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() / 1000000000);
}

static __always_inline int in_nat_range(__be16 port)
{
	__u16 n = bpf_ntohs(port);

	return n >= nat_port_min && n <= nat_port_max;
}

static __always_inline int nat_expired(const struct nat *n, __u8 proto, __u32 now)
{
	__u32 idle = now - n->seen_seconds;
	__u32 state = n->state;

	if (!(state & NAT_ANSWERED) || (proto == PROTO_TCP && !(state & NAT_OPEN)))
		return idle > NAT_OPENING_SECONDS;
	if (proto != PROTO_TCP)
		return idle > (state & NAT_OPEN ? NAT_UDP_STREAM_SECONDS : NAT_UDP_SECONDS);
	if ((state & NAT_DONE) == NAT_DONE)
		return idle > NAT_CLOSED_SECONDS;
	return idle > NAT_TCP_SECONDS;
}

/*
 * Whether a port may be taken when none is free. What other machines begin may be
 * forged, and then comes faster than it expires: so they also lose to each other
 * what is not open yet, as the kernel's own tracking has it (early_drop). Pods do
 * not: one that floods would end what its neighbours begin.
 */
static __always_inline int nat_spare(const struct nat *n, __u8 proto, int of_pod, __u32 now)
{
	if (!(n->state & NAT_OPEN))
		return !of_pod;
	return proto == PROTO_TCP && (n->state & NAT_DONE) == NAT_DONE &&
	       now - n->seen_seconds > NAT_REUSE_SECONDS;
}

/* done is the side that sent. Writes only when something changed: the entry is
 * shared by all processors. */
static __always_inline void nat_seen(struct nat *n, const struct packet *p, __u32 done, __u32 now)
{
	__u32 state = n->state;

	if (n->seen_seconds != now)
		n->seen_seconds = now;
	if (done == NAT_BACKEND_DONE)
		state |= NAT_ANSWERED;
	else if (state & NAT_ANSWERED && !(p->tcp_flags & TCP_SYN))
		state |= NAT_OPEN;
	if (p->tcp_flags & TCP_RST)
		state |= NAT_DONE;
	else if (p->tcp_flags & TCP_FIN)
		state |= done;
	if (state != n->state)
		__sync_fetch_and_or(&n->state, state);
}

static __always_inline int nat_is(const struct nat *n, const struct packet *p)
{
	return n->client_port == p->sport && n->called_port == p->dport &&
	       same_addr(n->client, p->src) && same_addr(n->called, p->dst);
}

struct nat_search {
	struct flow_key key;
	struct nat fresh;
	__u32 client; /* hash of its address */
	__u16 of_pod;
	__be16 spare; /* taken when none is free; 0: none */
	__u32 found;
};

/* Takes the port of the key, which n has; null: nobody. */
static __always_inline void nat_take(struct nat_search *s, struct nat *n)
{
	if (n && bpf_map_delete_elem(&nats, &s->key))
		return; /* somebody else was faster */
	s->found = !bpf_map_update_elem(&nats, &s->key, &s->fresh, BPF_NOEXIST);
}

/* One try at a random port of the client's. A callback and no loop in place: the
 * verifier looks at it once and not eighty times. */
static long nat_try(__u32 index, struct nat_search *s)
{
	__u32 pairs = ((__u32)nat_port_max - nat_port_min + 1) / 2;
	__u32 pair = bpf_get_prandom_u32() % pairs;
	__u32 now = s->fresh.seen_seconds;
	struct nat *n;

	(void)index;
	s->key.dport = bpf_htons((__u16)(nat_port_min + pair * 2 + (mix(s->client, pair) & 1)));
	n = bpf_map_lookup_elem(&nats, &s->key);
	if (!n || nat_expired(n, s->key.proto, now))
		nat_take(s, n);
	else if (nat_spare(n, s->key.proto, s->of_pod, now))
		s->spare = s->key.dport;
	return s->found != 0; /* the verifier wants to see 0 or 1 */
}

/*
 * The port of ours, at our address from, that this connection goes on by: the
 * one it has, or one that is free. 0: none is.
 */
static __always_inline __be16 nat_port(const struct packet *p, const struct flow *f,
				       const __be32 *from, int of_pod)
{
	struct nat_search s = {
		.key = {
			.sport = f->port,
			.dport = f->nat_port,
			.proto = p->proto,
			.direction = FLOW_REPLY,
		},
		.fresh = {
			.client_port = p->sport,
			.called_port = p->dport,
			.seen_seconds = now_seconds(),
		},
		.client = mix_addr(maglev_seed, p, p->src),
		.of_pod = (__u16)of_pod,
	};
	struct nat *n;

	set_addr(s.key.src, f->addr);
	set_addr(s.key.dst, from);
	set_addr(s.fresh.client, p->src);
	set_addr(s.fresh.called, p->dst);
	if (f->nat_port) {
		n = bpf_map_lookup_elem(&nats, &s.key);
		if (n && nat_is(n, p)) {
			/* A SYN begins anew on an old pair of ports. */
			if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && n->state & NAT_DONE)
				n->state = 0;
			nat_seen(n, p, NAT_CLIENT_DONE, s.fresh.seen_seconds);
			return f->nat_port;
		}
		/* It made room for others (LRU), and nobody took the port. */
		if (!n && !bpf_map_update_elem(&nats, &s.key, &s.fresh, BPF_NOEXIST))
			return f->nat_port;
	}
	bpf_loop(NAT_TRIES, nat_try, &s, 0);
	if (!s.found && s.spare) {
		s.key.dport = s.spare;
		n = bpf_map_lookup_elem(&nats, &s.key);
		if (n)
			nat_take(&s, n);
	}
	return s.found ? s.key.dport : 0;
}

#endif
