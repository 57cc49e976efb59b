// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * NetworkPolicy, judged at the host's end of a pod's link: what the pod sends
 * (egress) and, wherever a packet is handed to it, what it gets (ingress).
 *
 * A pod in policy_subjects is isolated in at least one direction; all others
 * cost one lookup. An isolated pod has a set of rules for each direction. A set
 * knows its peers by identity, which all pods of the same labels share, and by
 * address range; what a peer may use is a profile, a list of protocols and
 * ports. So a verdict takes at most seven lookups, however many rules there are,
 * and it is kept: later packets of the connection, and its answers, cost one.
 *
 * Sets, identities and profiles are 64-bit numbers made of what they stand for
 * (netdp/policy), so that nothing is renumbered when the daemon starts anew.
 * All rules allow. What only adds never closes anything; whenever something
 * else changes, netdp moves the revision on, and each connection is judged
 * again at its next packet.
 */
#ifndef SHOAL_POLICY_H
#define SHOAL_POLICY_H

#include "errors.h"
#include "silence.h"
#include "takeover.h"

#define POLICY_INGRESS 0
#define POLICY_EGRESS 1

#define SET_NONE 0 /* not isolated */
#define SET_HELD 1 /* nobody knows yet: only the node may pass */

#define PEER_NODE 1 /* this host's own address */

#define PROFILE_NONE 0
#define PROFILE_ALL 1 /* every protocol and port */

#define PROTO_SCTP 132

/* How long after its last packet a connection's answers still pass. As in the
 * kernel's own tracking, and in nat.h. */
#define POLICY_UDP_SECONDS 120
#define POLICY_TCP_SECONDS (3 * 3600)

struct policy_subject {
	__u64 set[2]; /* by direction */
};

struct policy_rule_key {
	__u64 set;
	__u64 peer;
};

/* A set and the range of a peer's address; bits counts the set's 64 too. */
struct policy_block_key {
	__u32 bits;
	__u32 set[2]; /* high word, low word */
	__be32 addr[4];
};

/* A profile, a protocol, and the first bits of a port. */
struct policy_port_key {
	__u32 bits;
	__u32 profile[2]; /* high word, low word */
	__be16 proto;
	__be16 port;
};

struct policy_conn_key {
	__be32 pod[4];
	__be32 peer[4];
	__be16 pod_port;
	__be16 peer_port;
	__u8 proto;
	__u8 pad[3];
};

struct policy_conn {
	__u32 seen_seconds; /* since boot, of the last packet */
	__u32 revision;	    /* that it was judged under */
	__u8 direction;	    /* of its first packet */
	__u8 node;	    /* begun by a program of the node */
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, address);
	__type(value, struct policy_subject);
} policy_subjects SEC(".maps");

/* The identity of each pod of the cell, by address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, address);
	__type(value, __u64);
} policy_peers SEC(".maps");

/* To a profile. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct policy_rule_key);
	__type(value, __u64);
} policy_rules SEC(".maps");

/* To a profile. Ranges within a range are complete by themselves: the longest
 * match has what all around it allow, or none in an exception. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct policy_block_key);
	__type(value, __u64);
} policy_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct policy_port_key);
	__type(value, __u32);
} policy_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct policy_conn_key);
	__type(value, struct policy_conn);
} policy_conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} policy_revision SEC(".maps");

static __always_inline int profile_allows(__u64 profile, __u8 proto, __be16 port)
{
	struct policy_port_key key = {
		.bits = 96,
		.profile = {profile >> 32, (__u32)profile},
		.proto = bpf_htons(proto),
		.port = port,
	};

	if (profile <= PROFILE_ALL)
		return profile == PROFILE_ALL;
	return bpf_map_lookup_elem(&policy_ports, &key) != 0;
}

static __always_inline int set_allows(__u64 set, const struct policy_conn_key *k, __u32 direction)
{
	__be16 port = direction == POLICY_INGRESS ? k->pod_port : k->peer_port;
	struct policy_block_key range = {
		.bits = 192,
		.set = {set >> 32, (__u32)set},
	};
	struct policy_rule_key rule = {.set = set};
	__u64 *peer, *profile;

	peer = bpf_map_lookup_elem(&policy_peers, k->peer);
	if (peer) {
		/* Not the other way: another machine may pretend to be the node.
		 * What the node sends does not come here. */
		if (*peer == PEER_NODE && direction == POLICY_EGRESS)
			return 1;
		rule.peer = *peer;
		profile = bpf_map_lookup_elem(&policy_rules, &rule);
		if (profile && profile_allows(*profile, k->proto, port))
			return 1;
	}
	set_addr(range.addr, k->peer);
	profile = bpf_map_lookup_elem(&policy_blocks, &range);
	return profile && profile_allows(*profile, k->proto, port);
}

static __always_inline __u32 policy_revision_now(void)
{
	__u32 zero = 0;
	__u32 *revision = bpf_map_lookup_elem(&policy_revision, &zero);

	return revision ? *revision : 0;
}

static __always_inline int conn_expired(const struct policy_conn *c, __u8 proto, __u32 now)
{
	return now - c->seen_seconds > (proto == PROTO_TCP ? POLICY_TCP_SECONDS : POLICY_UDP_SECONDS);
}

/* Ports of SCTP are where those of TCP are. */
static __always_inline int load_sctp_ports(struct __sk_buff *skb, struct packet *p)
{
	if (p->proto != PROTO_SCTP || p->later)
		return 0;
	if (bpf_skb_load_bytes(skb, p->transport, &p->sport, 2))
		return -1;
	return bpf_skb_load_bytes(skb, p->transport + 2, &p->dport, 2);
}

static __always_inline void conn_key_of(const struct packet *p, __u32 direction,
					struct policy_conn_key *k)
{
	int in = direction == POLICY_INGRESS;

	set_addr(k->pod, in ? p->dst : p->src);
	set_addr(k->peer, in ? p->src : p->dst);
	k->pod_port = in ? p->dport : p->sport;
	k->peer_port = in ? p->sport : p->dport;
	k->proto = p->proto;
	/* An echo has its number in one of the two; its answer in the other. */
	if (is_icmp(p)) {
		k->pod_port |= k->peer_port;
		k->peer_port = 0;
	}
}

/* Not 0: they differ. One number, where same_addr would give the verifier four
 * branches. */
static __always_inline __u32 addr_differs(const __be32 *a, const __be32 *b)
{
	return (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
}

/* An ICMP error passes when it is about a connection that does, and belongs to
 * it: a pod's own goes back to who sent what it quotes, or it could carry data to
 * anybody. One to a pod may come from a router on the way. */
static __always_inline int error_allowed(struct __sk_buff *skb, const struct packet *p,
					 __u32 direction)
{
	struct policy_conn_key k = {};
	struct packet q = {};
	struct policy_conn *conn;
	__u32 other;

	if (parse_quoted(skb, p, &q))
		return 0;
	other = direction == POLICY_EGRESS ? addr_differs(p->src, q.dst) : 0;
	if (other | addr_differs(p->dst, q.src))
		return 0;
	/* What is quoted went the other way. */
	conn_key_of(&q, direction == POLICY_INGRESS ? POLICY_EGRESS : POLICY_INGRESS, &k);
	conn = bpf_map_lookup_elem(&policy_conns, &k);
	return conn && !conn_expired(conn, q.proto, now_seconds());
}

static __always_inline int conn_allowed(const struct policy_subject *subject,
					const struct policy_conn_key *k, const struct packet *p,
					__u32 direction)
{
	struct policy_conn fresh = {
		.seen_seconds = now_seconds(),
		.revision = policy_revision_now(),
		.direction = direction,
	};
	struct policy_conn *conn = bpf_map_lookup_elem(&policy_conns, k);
	__u64 set;

	/* The same ports the other way round begin another connection. */
	if (conn && conn->direction != direction && p->proto == PROTO_TCP &&
	    (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		conn = 0;
	if (conn && conn_expired(conn, k->proto, fresh.seen_seconds))
		conn = 0;
	/* It may be of a connection that an older program allowed a moment ago.
	 * If not, it is a segment of no connection, and opens none. */
	if (!conn && p->proto == PROTO_TCP && !begins_tcp(p) && taking_over())
		return 1;
	if (conn && (conn->node || conn->revision == fresh.revision)) {
		if (conn->seen_seconds != fresh.seen_seconds)
			conn->seen_seconds = fresh.seen_seconds;
		return 1;
	}
	if (conn)
		fresh.direction = conn->direction;
	set = fresh.direction == POLICY_INGRESS ? subject->set[POLICY_INGRESS]
						: subject->set[POLICY_EGRESS];
	/* The entry stays: without it, what the other end still sends on this
	 * connection would look like the beginning of one. */
	if (set != SET_NONE && !set_allows(set, k, fresh.direction))
		return 0;
	bpf_map_update_elem(&policy_conns, k, &fresh, BPF_ANY);
	return 1;
}

/* Where an end of the packet is an isolated pod of this host, that. */
static __always_inline struct policy_subject *subject_at(struct __sk_buff *skb, enum end end)
{
	__be32 addr[4] = {0, 0, V4_MAPPED, 0};

	if (skb->protocol == ETH_IPV4) {
		if (bpf_skb_load_bytes(skb, ETH_LEN + (end == END_SRC ? IP_SRC : IP_DST), &addr[3], 4))
			return 0;
	} else if (skb->protocol != ETH_IPV6 ||
		   bpf_skb_load_bytes(skb, ETH_LEN + (end == END_SRC ? IPV6_SRC : IPV6_DST), addr, 16)) {
		return 0;
	}
	return bpf_map_lookup_elem(&policy_subjects, addr);
}

/* Not inlined, as parse: it is called for either end. */
__noinline int allowed(struct __sk_buff *skb, const struct policy_subject *subject,
		       const struct packet *p, __u32 direction)
{
	struct policy_conn_key k = {};

	if (!subject || !p)
		return 0;
	if (is_error(p))
		return error_allowed(skb, p, direction);
	conn_key_of(p, direction, &k);
	return conn_allowed(subject, &k, p, direction);
}

/* Why policy forbids this packet to the pod it is for or, where it comes from a
 * pod of this host, to either; DROP_NONE: it does not. */
static __always_inline enum drop_reason policy_forbids(struct __sk_buff *skb, int from_pod)
{
	struct policy_subject *to = subject_at(skb, END_DST), *from = 0;
	struct packet p = {};

	if (from_pod)
		from = subject_at(skb, END_SRC);
	if (!from) {
		/* Or clang takes both pointers for one number, as the verifier won't. */
		barrier_var(to);
		if (!to)
			return DROP_NONE;
	}
	if (parse(skb, &p) || load_sctp_ports(skb, &p))
		return DROP_MALFORMED;
	if (from && !allowed(skb, from, &p, POLICY_EGRESS))
		return DROP_POLICY_EGRESS;
	if (to && !allowed(skb, to, &p, POLICY_INGRESS))
		return DROP_POLICY_INGRESS;
	return DROP_NONE;
}

/* A program of the node may call its pods, and is answered: from whatever
 * address of the node it does. */
static __always_inline void note_node(struct __sk_buff *skb)
{
	struct policy_conn fresh = {
		.seen_seconds = now_seconds(),
		.direction = POLICY_INGRESS,
		.node = 1,
	};
	struct policy_conn_key k = {};
	struct policy_conn *conn;
	struct packet p = {};

	if (!subject_at(skb, END_DST) || parse(skb, &p) || load_sctp_ports(skb, &p))
		return;
	conn_key_of(&p, POLICY_INGRESS, &k);
	conn = bpf_map_lookup_elem(&policy_conns, &k);
	/* The pod's own calls to the node are known already, and answered here. */
	if (!conn || (!conn->node && (conn->direction == POLICY_INGRESS ||
				      (p.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)))
		bpf_map_update_elem(&policy_conns, &k, &fresh, BPF_ANY);
	else if (conn->seen_seconds != fresh.seen_seconds)
		conn->seen_seconds = fresh.seen_seconds;
}

/* On what other programs hand to a pod; cb[0] has the host's end of its link. */
SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	enum drop_reason reason = policy_forbids(skb, 0);

	if (reason)
		return drop(skb, reason);
	return hand_to_pod(skb, skb->cb[0]);
}

/* At the host's end of a pod's link, on what comes to the pod by the host's
 * stack: from the node itself, or from other machines. */
SEC("tc")
int pod_ingress(struct __sk_buff *skb)
{
	enum drop_reason reason;

	if (!skb->ingress_ifindex) {
		if (tells_of_nobody(skb))
			return drop(skb, DROP_NO_BACKEND);
		note_node(skb);
		return VERDICT_PASS;
	}
	reason = policy_forbids(skb, 0);
	if (reason)
		return drop(skb, reason);
	return VERDICT_PASS;
}

#endif
