// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Reading and rewriting IPv4 packets of TCP, UDP and ICMP. */
#ifndef SHOAL_PACKET_H
#define SHOAL_PACKET_H

#include "services.h"

#define ETH_LEN 14
#define ETH_IPV4 bpf_htons(0x0800)
#define ETH_ARP bpf_htons(0x0806)

#define VERDICT_PASS 0 /* TC_ACT_OK: on to the stack */
#define VERDICT_DROP 2 /* TC_ACT_SHOT */

/* Offsets from the start of the IPv4 header. */
#define IP_FRAGMENT 6
#define IP_CHECKSUM 10
#define IP_SRC 12
#define IP_DST 16

#define FRAGMENT_OFFSET bpf_htons(0x1fff)
#define FRAGMENT_MORE bpf_htons(0x2000)

#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6

#define ICMP_CHECKSUM 2
#define ICMP_ID 4
#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

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

struct packet {
	__u32 transport; /* offset of the TCP or UDP header */
	__be32 src;
	__be32 dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 later; /* a fragment without the transport header */
};

/* What has no ports to look up by: other protocols, other kinds of ICMP, and
 * fragments whose first one was not seen. */
static __always_inline int has_ports(const struct packet *p)
{
	return p->sport || p->dport;
}

/* TCP and UDP have ports; an echo has its number in the place of the caller's. */
static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *p)
{
	__be16 id;

	if (p->proto == PROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->transport + 13, &p->tcp_flags, 1))
			return -1;
	} else if (p->proto == PROTO_ICMP) {
		if (bpf_skb_load_bytes(skb, p->transport, &p->icmp_type, 1) ||
		    bpf_skb_load_bytes(skb, p->transport + ICMP_ID, &id, 2))
			return -1;
		if (p->icmp_type == ICMP_ECHO)
			p->sport = id;
		else if (p->icmp_type == ICMP_ECHO_REPLY)
			p->dport = id;
		return 0;
	} else if (p->proto != PROTO_UDP) {
		return 0;
	}
	if (bpf_skb_load_bytes(skb, p->transport, &p->sport, 2) ||
	    bpf_skb_load_bytes(skb, p->transport + 2, &p->dport, 2))
		return -1;
	return 0;
}

static __always_inline struct flow_key key_of(const struct packet *p, __u8 direction)
{
	struct flow_key key = {
		.src = p->src,
		.dst = p->dst,
		.sport = p->sport,
		.dport = p->dport,
		.proto = p->proto,
		.direction = direction,
	};

	return key;
}

/* Returns 0 for a whole IPv4 header, with ports where has_ports says so. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	struct fragment_key key = {};
	struct fragment_ports *known, ports = {};
	struct ip_header ip;
	__u32 length;

	if (skb->protocol != ETH_IPV4)
		return -1;
	if (bpf_skb_load_bytes(skb, ETH_LEN, &ip, sizeof(ip)))
		return -1;
	length = (ip.version_length & 0x0f) * 4;
	if (ip.version_length >> 4 != 4 || length < sizeof(ip))
		return -1;
	p->transport = ETH_LEN + length;
	p->src = ip.src;
	p->dst = ip.dst;
	p->proto = ip.proto;
	p->tcp_flags = 0;
	p->icmp_type = 0;
	p->sport = 0;
	p->dport = 0;
	p->later = (ip.fragment & FRAGMENT_OFFSET) != 0;
	if (!p->later && parse_ports(skb, p))
		return -1;
	if (!(ip.fragment & (FRAGMENT_OFFSET | FRAGMENT_MORE)))
		return 0;
	key.src = ip.src;
	key.dst = ip.dst;
	key.id = ip.id;
	key.proto = ip.proto;
	if (p->later) {
		known = bpf_map_lookup_elem(&fragments, &key);
		if (known) {
			p->sport = known->sport;
			p->dport = known->dport;
		}
	} else if (has_ports(p)) {
		ports.sport = p->sport;
		ports.dport = p->dport;
		bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
	}
	return 0;
}

/* Replaces what follows the IP header; ICMP's checksum has no address in it. */
static __always_inline int rewrite_transport(struct __sk_buff *skb, const struct packet *p,
					     __u32 at_port, __be32 old_addr, __be16 old_port,
					     __be32 addr, __be16 port)
{
	__u32 checksum = p->transport;
	__u64 flags = 0;

	if (p->proto == PROTO_ICMP) {
		if (port == old_port)
			return 0;
		if (bpf_l4_csum_replace(skb, checksum + ICMP_CHECKSUM, old_port, port, 2))
			return -1;
		return bpf_skb_store_bytes(skb, p->transport + ICMP_ID, &port, 2, 0);
	}
	if (p->proto == PROTO_TCP) {
		checksum += TCP_CHECKSUM;
	} else {
		checksum += UDP_CHECKSUM;
		flags = BPF_F_MARK_MANGLED_0; /* 0 means no checksum: leave it */
	}
	if (bpf_l4_csum_replace(skb, checksum, old_addr, addr, flags | BPF_F_PSEUDO_HDR | 4) ||
	    bpf_l4_csum_replace(skb, checksum, old_port, port, flags | 2))
		return -1;
	return bpf_skb_store_bytes(skb, p->transport + at_port, &port, 2, 0);
}

/* Replaces an address of the IP header at ip, where at_ip says. */
static __always_inline int rewrite_address(struct __sk_buff *skb, __u32 ip, __u32 at_ip,
					   __be32 old_addr, __be32 addr)
{
	if (bpf_l3_csum_replace(skb, ip + IP_CHECKSUM, old_addr, addr, 4))
		return -1;
	return bpf_skb_store_bytes(skb, ip + at_ip, &addr, 4, 0);
}

/*
 * Replaces one address and the port beside it. at_ip and at_port say which:
 * IP_DST and 2 for the destination, IP_SRC and 0 for the source.
 */
static __always_inline int rewrite(struct __sk_buff *skb, const struct packet *p, __u32 at_ip,
				   __u32 at_port, __be32 old_addr, __be16 old_port, __be32 addr,
				   __be16 port)
{
	if (!p->later && rewrite_transport(skb, p, at_port, old_addr, old_port, addr, port))
		return -1;
	return rewrite_address(skb, ETH_LEN, at_ip, old_addr, addr);
}

/* A pod's end of its link has this hardware address, and the host's end the
 * other; netdp sets them. */
static __always_inline int redirect_to_pod(struct __sk_buff *skb, __u32 ifindex)
{
	static const __u8 ethernet[12] = {0x02, 0x73, 0x68, 0x6f, 0x61, 0x02,
					  0x02, 0x73, 0x68, 0x6f, 0x61, 0x01};

	if (bpf_skb_store_bytes(skb, 0, ethernet, sizeof(ethernet), 0))
		return VERDICT_DROP;
	return bpf_redirect_peer(ifindex, 0);
}

#endif
