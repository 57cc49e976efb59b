// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Reading and rewriting IPv4 (RFC 791) and IPv6 (RFC 8200) packets of TCP, UDP
 * and ICMP. One path serves both: they differ in where addresses are, in IPv4's
 * header checksum, and in ICMPv6's checksum, which covers the addresses.
 */
#ifndef SHOAL_PACKET_H
#define SHOAL_PACKET_H

#include "drop.h"
#include "services.h"

#define ETH_LEN 14
#define ETH_IPV4 bpf_htons(0x0800)
#define ETH_ARP bpf_htons(0x0806)
#define ETH_IPV6 bpf_htons(0x86dd)

/* Offsets from the start of the IPv4 header. */
#define IP_CHECKSUM 10
#define IP_SRC 12
#define IP_DST 16

#define FRAGMENT_OFFSET bpf_htons(0x1fff)
#define FRAGMENT_MORE bpf_htons(0x2000)

/* Offsets from the start of the IPv6 header. */
#define IPV6_SRC 8
#define IPV6_DST 24

/* Extension headers that are stepped over; whatever else stays the protocol. */
#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define IPV6_DESTINATION 60

/* RFC 8200 has at most six of them in a packet, of which senders use one or two.
 * A packet with more than this has no ports for us. */
#define IPV6_EXTENSIONS_MAX 6

#define IPV6_FRAGMENT_OFFSET bpf_htons(0xfff8)
#define IPV6_FRAGMENT_MORE bpf_htons(0x0001)

#define TCP_SEQUENCE 4
#define TCP_LEN 20
#define TCP_LENGTH 12 /* in units of four bytes, in the upper half */
#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6

#define ICMP_CHECKSUM 2
#define ICMP_ID 4
#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8
#define ICMPV6_ECHO 128
#define ICMPV6_ECHO_REPLY 129

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* Of bpf_l4_csum_replace, Linux 6.16 and later. */
#define CSUM_IPV6 (1ULL << 7)

struct ip_header {
	__u8 version_length;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__u16 checksum;
	__be32 src;
	__be32 dst;
};

struct ipv6_header {
	__u8 version;
	__u8 flow[3];
	__be16 length;
	__u8 next;
	__u8 hop_limit;
	__be32 src[4];
	__be32 dst[4];
};

/* Every extension header has these eight bytes; offset and id are a fragment's. */
struct ipv6_extension {
	__u8 next;
	__u8 length; /* in units of eight bytes, without the first */
	__be16 offset;
	__be32 id;
};

struct packet {
	__u32 ip;	 /* offset of the IP header */
	__u32 transport; /* offset of the TCP, UDP or ICMP header */
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 later; /* a fragment without the transport header */
	__u32 v6;   /* it is IPv6 */
};

/* Which end of a packet is meant. */
enum end { END_SRC, END_DST };

/* What has no ports to look up by: other protocols, other kinds of ICMP, and
 * fragments whose first one was not seen. */
static __always_inline int has_ports(const struct packet *p)
{
	return p->sport || p->dport;
}

static __always_inline int is_icmp(const struct packet *p)
{
	return p->proto == (p->v6 ? PROTO_ICMPV6 : PROTO_ICMP);
}

/* The first eight bytes of TCP, UDP and ICMP; the third field is UDP's length
 * and the number of an echo. */
struct transport_start {
	__be16 sport;
	__be16 dport;
	__be16 third;
	__be16 fourth;
};

/* An echo has its number in the place of the caller's port. */
static __always_inline void echo_number(struct packet *p, const struct transport_start *t)
{
	p->icmp_type = *(const __u8 *)t;
	if (p->icmp_type == (p->v6 ? ICMPV6_ECHO : ICMP_ECHO))
		p->sport = t->third;
	else if (p->icmp_type == (p->v6 ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY))
		p->dport = t->third;
}

/* TCP's flags, where the whole header with its options is in room bytes. */
static __always_inline int load_tcp_flags(struct __sk_buff *skb, struct packet *p, __u32 room)
{
	__u8 length_flags[2];
	__u32 length;

	if (bpf_skb_load_bytes(skb, p->transport + TCP_LENGTH, length_flags, 2))
		return -1;
	length = (length_flags[0] >> 4) * 4;
	p->tcp_flags = length_flags[1];
	return length < TCP_LEN || length > room ? -1 : 0;
}

/* Reads the start of the transport header, of which room bytes are there. A
 * first fragment is shorter than its UDP header says. */
static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *p, __u32 room,
				       int is_fragment)
{
	struct transport_start t;

	if (p->proto != PROTO_TCP && p->proto != PROTO_UDP && !is_icmp(p))
		return 0;
	if (room < sizeof(t) || bpf_skb_load_bytes(skb, p->transport, &t, sizeof(t)))
		return -1;
	if (is_icmp(p)) {
		echo_number(p, &t);
		return 0;
	}
	p->sport = t.sport;
	p->dport = t.dport;
	if (p->proto == PROTO_TCP)
		return load_tcp_flags(skb, p, room);
	if (bpf_ntohs(t.third) < sizeof(t))
		return -1;
	return !is_fragment && bpf_ntohs(t.third) > room ? -1 : 0;
}

static __always_inline struct flow_key key_of(const struct packet *p, __u8 direction)
{
	struct flow_key key = {
		.sport = p->sport,
		.dport = p->dport,
		.proto = p->proto,
		.direction = direction,
	};

	set_addr(key.src, p->src);
	set_addr(key.dst, p->dst);
	return key;
}

/* The key of what goes the other way. */
static __always_inline struct flow_key key_of_answer(const struct packet *p, __u8 direction)
{
	struct flow_key key = {
		.sport = p->dport,
		.dport = p->sport,
		.proto = p->proto,
		.direction = direction,
	};

	set_addr(key.src, p->dst);
	set_addr(key.dst, p->src);
	return key;
}

/* What an IP header says of how much it carries. id and offset are 0 for a whole
 * datagram. */
struct fragment {
	__be32 id;
	__be16 offset; /* with the bit that says more follow */
	__u32 length;  /* of the packet with its header, 0: it does not say */
};

/* The longest packet that says its length. Larger ones, which the kernel makes for
 * itself before they are cut or after they were put together, have 0 there (BIG
 * TCP, Linux 5.19). */
#define IP_LENGTH_MAX 65535

/* How many bytes the packet has from its transport header on; less than 0: it is
 * cut off, or says less than its headers take. What is behind the packet, as in a
 * short Ethernet frame, is no part of it. */
static __always_inline int transport_room(struct __sk_buff *skb, const struct packet *p,
					  const struct fragment *f)
{
	__u32 has = skb->len - p->ip;

	if (!f->length && has <= IP_LENGTH_MAX)
		return -1;
	if (f->length) {
		if (f->length > has)
			return -1;
		has = f->length;
	}
	return (int)(p->ip + has - p->transport);
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p, struct fragment *f)
{
	struct ip_header ip;
	__u32 length;

	if (bpf_skb_load_bytes(skb, p->ip, &ip, sizeof(ip)))
		return -1;
	length = (ip.version_length & 0x0f) * 4;
	if (ip.version_length >> 4 != 4 || length < sizeof(ip))
		return -1;
	p->transport = p->ip + length;
	p->src[2] = V4_MAPPED;
	p->src[3] = ip.src;
	p->dst[2] = V4_MAPPED;
	p->dst[3] = ip.dst;
	p->proto = ip.proto;
	p->later = (ip.fragment & FRAGMENT_OFFSET) != 0;
	f->offset = ip.fragment & (FRAGMENT_OFFSET | FRAGMENT_MORE);
	f->id = ip.id;
	f->length = bpf_ntohs(ip.length);
	return 0;
}

/* Steps over the extension headers to the transport header. */
static __always_inline int skip_extensions(struct __sk_buff *skb, struct packet *p,
					   struct fragment *f)
{
	struct ipv6_extension ext;

	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (p->proto != IPV6_HOP_BY_HOP && p->proto != IPV6_ROUTING &&
		    p->proto != IPV6_FRAGMENT && p->proto != IPV6_DESTINATION)
			return 0;
		if (bpf_skb_load_bytes(skb, p->transport, &ext, sizeof(ext)))
			return -1;
		if (p->proto == IPV6_FRAGMENT) {
			p->transport += sizeof(ext);
			f->id = ext.id;
			f->offset = ext.offset & (IPV6_FRAGMENT_OFFSET | IPV6_FRAGMENT_MORE);
			p->later = (ext.offset & IPV6_FRAGMENT_OFFSET) != 0;
		} else {
			p->transport += ((__u32)ext.length + 1) * 8;
		}
		p->proto = ext.next;
		if (p->later)
			return 0;
	}
	return 0;
}

static __always_inline int load_ipv6(struct __sk_buff *skb, struct packet *p, struct fragment *f)
{
	struct ipv6_header ip;

	if (bpf_skb_load_bytes(skb, p->ip, &ip, sizeof(ip)) || ip.version >> 4 != 6)
		return -1;
	set_addr(p->src, ip.src);
	set_addr(p->dst, ip.dst);
	/* On the wire a mapped address would pass for IPv4's. */
	if (is_mapped(p->src) || is_mapped(p->dst))
		return -1;
	p->v6 = 1;
	p->proto = ip.next;
	p->transport = p->ip + sizeof(ip);
	if (ip.length)
		f->length = bpf_ntohs(ip.length) + sizeof(ip);
	return 0;
}

static __always_inline int parse_ip(struct __sk_buff *skb, struct packet *p, struct fragment *f)
{
	if (skb->protocol == ETH_IPV4)
		return parse_ipv4(skb, p, f);
	if (skb->protocol != ETH_IPV6 || load_ipv6(skb, p, f))
		return -1;
	return skip_extensions(skb, p, f);
}

/* The first part of a datagram says for the others which ports they have. */
static __always_inline void share_ports(struct packet *p, const struct fragment *f)
{
	struct fragment_key key = {.id = f->id};
	struct fragment_ports *known, ports = {};

	set_addr(key.src, p->src);
	set_addr(key.dst, p->dst);
	if (!p->v6)
		key.proto = p->proto; /* numbers are of a protocol; of IPv6 they are not */
	if (p->later) {
		known = bpf_map_lookup_elem(&fragments, &key);
		if (known) {
			p->sport = known->sport;
			p->dport = known->dport;
			p->proto = known->proto;
		}
	} else if (has_ports(p)) {
		ports.sport = p->sport;
		ports.dport = p->dport;
		ports.proto = p->proto;
		bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
	}
}

/* A second fragment that begins within TCP's header would say other flags than
 * were judged (RFC 1858, RFC 3128). IPv6 forbids what overlaps (RFC 5722). */
static __always_inline int rewrites_header(const struct packet *p, const struct fragment *f)
{
	return p->proto == PROTO_TCP && !p->v6 &&
	       bpf_ntohs(f->offset & FRAGMENT_OFFSET) * 8 < TCP_LEN;
}

/* Returns 0 for a whole IP header, with ports where has_ports says so. p is all
 * zero before, ip is where the header begins; addresses are in it also where
 * something else is wrong. */
static __always_inline int parse_at(struct __sk_buff *skb, struct packet *p, __u32 ip)
{
	struct fragment f = {};
	int room;

	p->ip = ip;
	if (parse_ip(skb, p, &f))
		return -1;
	room = transport_room(skb, p, &f);
	if (room < 0)
		return -1;
	if (p->later ? rewrites_header(p, &f) : parse_ports(skb, p, room, f.offset != 0))
		return -1;
	if (f.offset)
		share_ports(p, &f);
	return 0;
}

/* Not inlined, as the next: the verifier looks at it once, and at its callers with
 * one outcome each. */
__noinline int parse(struct __sk_buff *skb, struct packet *p)
{
	return p ? parse_at(skb, p, ETH_LEN) : -1;
}

/* Of a packet without a hardware header. */
__noinline int parse_headless(struct __sk_buff *skb, struct packet *p)
{
	return p ? parse_at(skb, p, 0) : -1;
}

/* What a checksum over old changes by. A mapped IPv4 address differs where the
 * one on the wire does. */
static __always_inline __u32 addr_diff(const __be32 *old, const __be32 *addr)
{
	return (__u32)bpf_csum_diff((__be32 *)old, 16, (__be32 *)addr, 16, 0);
}

/*
 * Tells the checksum at an offset that the pseudo header changed. Where the
 * device has summed up the whole packet, IPv4's sum also changes by its header's
 * checksum, and IPv6 has none: before Linux 6.16 the helper does not know, and
 * what it did to that sum is undone.
 */
static __always_inline int change_pseudo(struct __sk_buff *skb, const struct packet *p,
					 __u32 checksum, __u32 diff, __u64 flags)
{
	flags |= BPF_F_PSEUDO_HDR;
	if (!p->v6)
		return bpf_l4_csum_replace(skb, checksum, 0, diff, flags);
	if (!bpf_l4_csum_replace(skb, checksum, 0, diff, flags | CSUM_IPV6))
		return 0;
	if (bpf_l4_csum_replace(skb, checksum, 0, diff, flags))
		return -1;
	bpf_csum_update(skb, diff);
	return 0;
}

/* Replaces what follows the IP header; IPv4's ICMP has no address in its checksum. */
static __always_inline int rewrite_transport(struct __sk_buff *skb, const struct packet *p,
					     __u32 diff, __u32 at_port, __be16 old_port, __be16 port)
{
	__u32 checksum = p->transport;
	__u64 flags = 0;

	if (is_icmp(p)) {
		checksum += ICMP_CHECKSUM;
		at_port = ICMP_ID;
	} else if (p->proto == PROTO_TCP) {
		checksum += TCP_CHECKSUM;
	} else {
		checksum += UDP_CHECKSUM;
		flags = BPF_F_MARK_MANGLED_0; /* 0 means no checksum: leave it */
	}
	if ((p->v6 || !is_icmp(p)) && change_pseudo(skb, p, checksum, diff, flags))
		return -1;
	if (port == old_port)
		return 0;
	if (bpf_l4_csum_replace(skb, checksum, old_port, port, flags | 2))
		return -1;
	return bpf_skb_store_bytes(skb, p->transport + at_port, &port, 2, 0);
}

/* Replaces an address of the IP header of p. */
static __always_inline int rewrite_header(struct __sk_buff *skb, const struct packet *p,
					  enum end end, __u32 diff, const __be32 *addr)
{
	if (p->v6)
		return bpf_skb_store_bytes(skb, p->ip + (end == END_SRC ? IPV6_SRC : IPV6_DST),
					   addr, 16, 0);
	if (bpf_l3_csum_replace(skb, p->ip + IP_CHECKSUM, 0, diff, 0))
		return -1;
	return bpf_skb_store_bytes(skb, p->ip + (end == END_SRC ? IP_SRC : IP_DST), &addr[3], 4, 0);
}

/* Replaces the address and the port of one end. */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *p, enum end end,
				   const __be32 *addr, __be16 port)
{
	__u32 diff = addr_diff(end == END_SRC ? p->src : p->dst, addr);

	if (!p->later && rewrite_transport(skb, p, diff, end == END_SRC ? 0 : 2,
					   end == END_SRC ? p->sport : p->dport, port))
		return -1;
	return rewrite_header(skb, p, end, diff, addr);
}

/* A pod's end of its link has this hardware address, and the host's end the
 * other; netdp sets them. */
static __always_inline int hand_to_pod(struct __sk_buff *skb, __u32 ifindex)
{
	static const __u8 ethernet[12] = {0x02, 0x73, 0x68, 0x6f, 0x61, 0x02,
					  0x02, 0x73, 0x68, 0x6f, 0x61, 0x01};

	if (bpf_skb_store_bytes(skb, 0, ethernet, sizeof(ethernet), 0))
		return drop(skb, DROP_NOT_REWRITTEN);
	return bpf_redirect_peer(ifindex, 0);
}

/* Programs that others end with; netdp puts them in. */
#define PROGRAM_TO_POD 0

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

/* The end of every way to a pod of this host, once the packet has its last
 * addresses: policy judges these (policy.h) with a stack of its own. */
static __always_inline int redirect_to_pod(struct __sk_buff *skb, __u32 ifindex)
{
	skb->cb[0] = ifindex;
	bpf_tail_call(skb, &programs, PROGRAM_TO_POD);
	return drop(skb, DROP_NO_PROGRAM);
}

#endif
