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
 *
 * A TCP connection without an entry, which made room for others (LRU), goes on
 * when a rule allows it in either direction: nobody knows in which it was begun.
 * A direction in which the pod is not isolated allows what goes that way alone, or
 * segments of no connection would be a way round the other one's rules. What begins
 * a connection is judged by its own direction alone.
 */
#ifndef SHOAL_POLICY_H
#define SHOAL_POLICY_H

#include "errors.h"
#include "silence.h"
#include "takeover.h"
#include "vxlan.h"

#define POLICY_INGRESS 0
#define POLICY_EGRESS 1

#define SET_NONE 0 /* not isolated */
#define SET_HELD 1 /* nobody knows yet: only the node may pass */

#define PEER_NODE 1 /* an address of this host */

#define PROFILE_NONE 0
#define PROFILE_ALL 1 /* every protocol and port */

#define PROTO_SCTP 132

/* How long after its last packet a connection's answers still pass. As in the
 * kernel's own tracking, and in nat.h. */
#define POLICY_UDP_SECONDS 120
#define POLICY_TCP_SECONDS (3 * 3600)
#define POLICY_CLOSED_SECONDS 60

/* Both ends are done: a bit for each direction of a FIN, or both by a RST. */
#define CONN_DONE ((1 << POLICY_INGRESS) | (1 << POLICY_EGRESS))

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
	__u16 done;	    /* of TCP: CONN_DONE */
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

/* Not inlined, as all below that is asked for new connections alone: so the
 * verifier looks at it once. */
__noinline int set_allows(__u64 set, const struct policy_conn_key *k, __u32 direction)
{
	struct policy_block_key range = {
		.bits = 192,
		.set = {set >> 32, (__u32)set},
	};
	struct policy_rule_key rule = {.set = set};
	__u64 *peer, *profile;
	__be16 port;

	if (!k)
		return 0; /* never: for the verifier */
	port = direction == POLICY_INGRESS ? k->pod_port : k->peer_port;
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
	__u32 seconds = POLICY_UDP_SECONDS;

	if (proto == PROTO_TCP)
		seconds = c->done == CONN_DONE ? POLICY_CLOSED_SECONDS : POLICY_TCP_SECONDS;
	return now - c->seen_seconds > seconds;
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

/*
 * The key of the connection that an ICMP error is about, where it belongs to it: a
 * pod's own goes back to who sent what it quotes, or it could carry data to
 * anybody. One to a pod may come from a router on the way.
 */
static __always_inline int key_of_error(struct __sk_buff *skb, const struct packet *p,
					__u32 direction, struct policy_conn_key *k)
{
	struct packet q = {};
	__u32 other;

	if (parse_quoted(skb, p, &q))
		return -1;
	other = direction == POLICY_EGRESS ? addr_differs(p->src, q.dst) : 0;
	if (other | addr_differs(p->dst, q.src))
		return -1;
	/* What is quoted went the other way. */
	conn_key_of(&q, direction == POLICY_INGRESS ? POLICY_EGRESS : POLICY_INGRESS, k);
	return 0;
}

/*
 * Pods of a host behind the tunnel send by the tunnel, from an address of that
 * host's: who else uses theirs is somebody else. While the cell encrypts they send
 * by the device that does.
 */
__noinline int is_forged(struct __sk_buff *skb, const struct policy_conn_key *k)
{
	__be32 end[4] = {0, 0, V4_MAPPED, 0};
	__u32 *sender, *owner, by;
	struct range *range;

	if (!k)
		return 1; /* never: for the verifier */
	range = find_range(&ranges, k->peer);
	if (!range)
		return 0;
	by = skb->ingress_ifindex;
	asm volatile("" : "+r"(by)); /* read here: the verifier knows no moved pointer to it */
	if ((range->flags & (RANGE_WIRE | RANGE_HOST | RANGE_OWN)) == RANGE_WIRE)
		return by != range->ifindex;
	if (range->flags || !range->host[0])
		return 0;
	end[3] = tunnel_end(skb);
	sender = bpf_map_lookup_elem(&tunnel_peers, end);
	end[3] = range->host[0];
	owner = bpf_map_lookup_elem(&tunnel_peers, end);
	return !sender || !owner || *sender != *owner;
}

static __always_inline int direction_allows(const struct policy_subject *subject,
					    const struct policy_conn_key *k, __u32 direction)
{
	__u64 set = direction == POLICY_INGRESS ? subject->set[POLICY_INGRESS]
						: subject->set[POLICY_EGRESS];

	return set == SET_NONE || set_allows(set, k, direction);
}

static __always_inline void conn_seen(struct policy_conn *c, const struct packet *p, __u32 direction,
				      __u32 now)
{
	__u16 done = c->done;

	if (c->seen_seconds != now)
		c->seen_seconds = now;
	if (p->proto != PROTO_TCP)
		return;
	if (p->tcp_flags & TCP_RST)
		done = CONN_DONE;
	else if (p->tcp_flags & TCP_FIN)
		done |= 1 << direction;
	if (done != c->done)
		c->done = done;
}

/* Why a packet to an isolated pod, or from it, is forbidden, as a drop reason. Not
 * inlined, as parse: it is called for either end. */
__noinline int judge(struct __sk_buff *skb, const struct policy_subject *subject,
		     const struct packet *p, __u32 direction, int from_pod)
{
	struct policy_conn fresh = {
		.seen_seconds = now_seconds(),
		.revision = policy_revision_now(),
		.direction = direction,
	};
	enum drop_reason forbidden = direction == POLICY_INGRESS ? DROP_POLICY_INGRESS
								 : DROP_POLICY_EGRESS;
	struct policy_conn_key k = {};
	struct policy_conn *conn;
	int error, begins, either;
	__u8 flags;

	if (!subject || !p)
		return DROP_MALFORMED; /* never: for the verifier */
	error = is_error(p);
	flags = p->proto == PROTO_TCP ? p->tcp_flags : 0;
	if (!error)
		conn_key_of(p, direction, &k);
	else if (key_of_error(skb, p, direction, &k))
		return forbidden;
	conn = bpf_map_lookup_elem(&policy_conns, &k);
	if (conn && conn_expired(conn, k.proto, fresh.seen_seconds))
		conn = 0;
	/* The same ports the other way round begin another connection, and so does
	 * what comes after an end. */
	begins = (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	if (conn && begins && (conn->direction != direction || conn->done == CONN_DONE))
		conn = 0;
	/* What a program of the node sends is not judged: this is from somebody else. */
	if (conn && conn->node && direction == POLICY_INGRESS && !from_pod)
		return DROP_SPOOFED_SOURCE;
	/* It may be of a connection that an older program allowed a moment ago.
	 * If not, it is a segment of no connection, and opens none. */
	if (!conn && !error && p->proto == PROTO_TCP && !begins && taking_over())
		return DROP_NONE;
	if (conn && (conn->node || conn->revision == fresh.revision)) {
		if (!error)
			conn_seen(conn, p, direction, fresh.seen_seconds);
		return DROP_NONE;
	}
	if (error && !conn)
		return forbidden;
	if (!conn && !from_pod && direction == POLICY_INGRESS && is_forged(skb, &k))
		return DROP_SPOOFED_SOURCE;
	either = !conn && p->proto == PROTO_TCP && !(flags & TCP_SYN) &&
		 (direction == POLICY_INGRESS ? subject->set[POLICY_EGRESS]
					      : subject->set[POLICY_INGRESS]) != SET_NONE;
	if (conn) {
		fresh.direction = conn->direction;
		fresh.done = conn->done;
	} else if (either) {
		/* Rather the direction in which somebody said what may be. */
		fresh.direction = !direction;
	}
	/* An entry stays: without it, what the other end still sends on this
	 * connection would look like the middle of one that may be. */
	if (!direction_allows(subject, &k, fresh.direction)) {
		if (!either || !direction_allows(subject, &k, direction))
			return forbidden;
		fresh.direction = direction;
	}
	if (error)
		return DROP_NONE;
	conn_seen(&fresh, p, direction, fresh.seen_seconds);
	bpf_map_update_elem(&policy_conns, &k, &fresh, BPF_ANY);
	return DROP_NONE;
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

/* Why policy forbids this packet to the pod it is for or, where it comes from a
 * pod of this host, to either; DROP_NONE: it does not. */
static __always_inline enum drop_reason policy_forbids(struct __sk_buff *skb, int from_pod)
{
	struct policy_subject *to = subject_at(skb, END_DST), *from = 0;
	struct packet p = {};
	int reason;

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
	if (from) {
		reason = judge(skb, from, &p, POLICY_EGRESS, from_pod);
		if (reason)
			return reason;
	}
	return to ? judge(skb, to, &p, POLICY_INGRESS, from_pod) : DROP_NONE;
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

	skb->cb[CB_TUNNEL] = 0;
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
