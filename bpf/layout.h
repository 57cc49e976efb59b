// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The layout that the kernel programs and netdp share. An address of either
 * family takes four words; IPv4 is kept as ::ffff:a.b.c.d, so that one set of
 * maps serves both families. Ports and addresses are in network byte order.
 *
 * netdp names every pinned map after a hash of its shape: change a struct here
 * and the daemon builds a new map beside the old one, and carries its entries over
 * by the names of the fields. A field that changes its meaning needs another name;
 * a key that changes in any way makes its map begin anew.
 */
#ifndef SHOAL_LAYOUT_H
#define SHOAL_LAYOUT_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58
/* A socket of IPPROTO_MPTCP reaches the connect hook with this number; its
 * first subflow is plain TCP to the same address. */
#define PROTO_MPTCP 262

#define V4_MAPPED bpf_htonl(0x0000ffff)

/* As the key of a map: the kernel keeps the types of keys and values only where
 * both have one, and netdp reads there how to carry a map over. */
typedef __be32 address[4];

struct frontend_key {
	__be32 addr[4]; /* all zero: any address of this node (a node port) */
	__be16 port;
	__u8 proto;
	__u8 v6; /* of a node port: of the node's IPv6 addresses; else 0 */
};

#define FRONTEND_OUTSIDE 1 /* may be called by other machines */
#define FRONTEND_EXACT 2   /* these get only what the Maglev table has */
#define FRONTEND_SOURCES 4 /* callers must be in the service's source ranges */
#define FRONTEND_OWN 8     /* at an address of the host's, beside its programs' ports */

struct frontend {
	__u32 service;
	__u32 flags;
};

/*
 * The count and where its slots begin change together: they share one aligned
 * word, which array maps copy in one store, so a reader never pairs the new
 * count with the old slots.
 */
struct service {
	__u64 extent;	       /* first slot << 32 | count */
	__u32 maglev;	       /* entries in the Maglev table, 0: none */
	__u32 affinity_seconds; /* a client keeps its backend so long, 0: it does not */
};

/* What a backend's state says. One that drains keeps the connections it has and
 * gets no new one; which callers give it new ones, the other bits say. */
#define BACKEND_GONE 0
#define BACKEND_INSIDE 1  /* sockets of this host and its pods */
#define BACKEND_OUTSIDE 2 /* other machines */
#define BACKEND_DRAINING 4

/* A backend belongs to exactly one service, so "does this backend still belong
 * to that service" is one array lookup. */
struct backend {
	__be32 addr[4];
	__be16 port;
	__u8 proto;
	__u8 state;
	__u32 service;
};

/* How many entries of a Maglev table one map element holds. */
#define MAGLEV_CHUNK 128

struct maglev_key {
	__u32 service;
	__u32 chunk;
};

struct maglev_chunk {
	__u32 backend[MAGLEV_CHUNK];
};

/* Who keeps to a backend: a network namespace, which a pod has for itself, or
 * another machine. */
struct affinity_key {
	__be32 client[4]; /* an address; of a namespace its cookie in the first two words */
	__u32 service;
	__u32 inside; /* 1: a namespace */
};

struct affinity {
	__u64 seen_ns; /* since boot, of the last time a backend was chosen by it */
	__u32 backend;
	__u32 pad;
};

/* The addresses that may call a service where FRONTEND_SOURCES says so. bits
 * counts the 64 of service and family too, and of an IPv4 range the 96 before
 * it. */
struct source_key {
	__u32 bits;
	__u32 service;
	__u32 family; /* 4 or 6: a short range of IPv6 must not have IPv4 in it */
	__be32 addr[4];
};

/* The addresses of a network namespace, for source ranges; all zero: none. */
struct caller {
	__be32 ipv4[4];
	__be32 ipv6[4];
};

/* What a socket asked for and what it got instead. */
struct translation {
	__be32 service_addr[4];
	__be32 backend_addr[4];
	__be16 service_port;
	__be16 backend_port;
	__u32 service;
	__u32 backend;
};

/* An unconnected UDP socket remembers this many services it has sent to.
 * Resolvers use up to three; eight leaves room and keeps the storage of such a
 * socket below 512 bytes. The oldest is forgotten first. */
#define SENT_MAX 8

struct sent {
	__u32 next;
	struct translation entry[SENT_MAX];
};

#define FLOW_REQUEST 0
#define FLOW_REPLY 1
#define FLOW_OUT 2 /* of a pod to the world outside */
#define FLOW_ANEW 3 /* a reply's, once the backend answers the SYN that calls it anew;
		     * a request's, once the caller acknowledges that (begun.h) */

struct flow_key {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 direction;
	__u16 pad;
};

/* For a request: the backend that serves it, and the port of ours that calls
 * it when it is on another machine. For a reply: the address the client
 * called, and in nat_port what it has called since. For a call of a pod to outside:
 * who is called, and the port of ours that calls; no address: it answers a call, in
 * its own name. Of a request anew: the port of ours, and in service and backend the
 * caller's number and the one it is to acknowledge. */
struct flow {
	__be32 addr[4];
	__be16 port;
	__be16 nat_port;
	__u32 service;
	__u32 backend;
};

#define CALLED_PAST 1 /* the backend, by its own address */
#define CALLED_ANEW 2 /* another address, which is in FLOW_ANEW */

/*
 * A connection that this host passes on in its own name, so that the answers
 * come back here: one from outside to a backend elsewhere, where the address
 * that was called is put in again, or one of a pod to outside. Found by what the
 * answer looks like.
 */
struct nat {
	__be32 client[4];
	__be32 called[4];
	__be16 client_port;
	__be16 called_port;
	__u32 seen_seconds; /* since boot, of the last packet */
	__u32 state;	    /* of TCP */
};

#define NAT_CLIENT_DONE 1
#define NAT_BACKEND_DONE 2
#define NAT_ANSWERED 4
#define NAT_OPEN 8 /* the client has heard the answer */

/* How the pods of other hosts are reached, by range. The bits of an IPv4 range
 * count the 96 before it too. */
struct range_key {
	__u32 bits;
	__be32 addr[4];
};

#define RANGE_DIRECT 1 /* host is on the link ifindex, and no tunnel's end */
#define RANGE_HOST 2   /* addresses of a host itself, for calls of pods only */
#define RANGE_WIRE 4   /* ifindex is the device that encrypts, and knows the host; 0: there
			* is no way yet, and no other will do */
#define RANGE_OWN 8    /* this host's pods; the rest of it is the stack's. With RANGE_WIRE: from
			* outside nothing comes with it */

/* family and host are what bpf_redirect_neigh takes: AF_INET and the first word,
 * or AF_INET6 and all. A tunnel's end is of IPv4. With RANGE_WIRE it is where the host is
 * on a link that both share (begun.h). */
struct range {
	__u32 family;
	__be32 host[4];
	__u32 ifindex; /* of the tunnel's device, or of the link */
	__u32 flags;
};

/* All zero: a pod keeps its own address of that family. */
struct masquerade {
	__be32 ipv4[4];
	__be32 ipv6[4];
};

/* The parts of a datagram after the first carry no ports: they are found here. */
struct fragment_key {
	__be32 src[4];
	__be32 dst[4];
	__be32 id; /* of IPv4 the upper half is 0 */
	__u8 proto;
	__u8 pad[3];
};

struct fragment_ports {
	__be16 sport;
	__be16 dport;
	__u8 proto; /* IPv6 says it in the first part only */
	__u8 pad[3];
};

/* A pod of this host: the host end of its link. */
struct pod {
	__u32 ifindex;
	__u32 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 262144);
	__type(key, __u32);
	__type(value, __u32);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 131072);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, struct maglev_key);
	__type(value, struct maglev_chunk);
} maglev SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct source_key);
	__type(value, __u32);
} sources SEC(".maps");

/* The host's namespace and those of its pods, by cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct caller);
} callers SEC(".maps");

/* Addresses at which node ports of this host are reached. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, address);
	__type(value, __u32);
} node_addrs SEC(".maps");

/* Network namespaces, by cookie, whose sockets are left alone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} bypass SEC(".maps");

/* By each address that a pod has. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, address);
	__type(value, struct pod);
} pods SEC(".maps");

/* By each address of a pod of this host that another driver than ours gave its
 * network: the host's routes lead to it, and back. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, address);
	__type(value, __u32);
} routed_pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct nat);
} nats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct range_key);
	__type(value, struct range);
} ranges SEC(".maps");

/* Addresses that see pods by their own: pods, hosts, and what the administrator
 * names. A range as in ranges. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct range_key);
	__type(value, __u32);
} inside SEC(".maps");

/* The addresses that pods have in the world behind an interface. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct masquerade);
} masquerades SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment_key);
	__type(value, struct fragment_ports);
} fragments SEC(".maps");

/* Addresses of the cell's other hosts: from these the tunnel's packets are taken,
 * and to these calls are handed over. The value is the same for all addresses of
 * a host. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, address);
	__type(value, __u32);
} tunnel_peers SEC(".maps");

/*
 * Reverse entries live in the socket itself: the kernel frees them with it, so
 * none can be left behind whatever way the socket ends.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct translation);
} socket_peer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sent);
} socket_sent SEC(".maps");

/* Set by netdp when the programs are loaded. */
const volatile __u64 host_netns_cookie = 0;
const volatile __u16 node_port_min = 30000;
const volatile __u16 node_port_max = 32767;
const volatile __u32 maglev_seed = 0;
/* The host's own address of IPv4; all zero: none, so nothing is passed on. */
const volatile __be32 node_ipv4[4] = {};
/* What the daemon serves pods at. */
const volatile __be32 server_ipv4[4] = {};
const volatile __u16 nat_port_min = 10000;
const volatile __u16 nat_port_max = 29999;
const volatile __u32 tunnel_id = 1;
const volatile __be16 tunnel_port = 0; /* of UDP; 0: none */

/* Pods' packets to other hosts go encrypted or not at all. netdp may change it
 * while the programs run. */
volatile __u32 encrypted = 0;

/* The host's own address of IPv6, as node_ipv4. Routers may tell of it late: netdp may
 * change it too. */
volatile __be32 node_ipv6[4] = {};

#endif
