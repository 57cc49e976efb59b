// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The tunnel's headers (VXLAN over IPv4, RFC 7348), put on and taken off here for
 * what pods of two hosts say: past the tunnel's device and both hosts' stacks, which
 * takes a quarter off a round trip and a tenth off a stream. Whatever is not plain the
 * device does as ever, and so do both where the host has IPsec policies, which only the
 * stack heeds.
 */
#ifndef SHOAL_VXLAN_H
#define SHOAL_VXLAN_H

#include "errors.h"

#define PACKET_HOST 0
#define PACKET_OTHERHOST 3

#define VXLAN_HAS_ID bpf_htonl(0x08000000) /* RFC 7348, section 5 */

#define IPV4_LEN 20

/* What is in front of an IP packet in the tunnel. */
struct vxlan_headers {
	struct ip_header ip;
	__be16 sport;
	__be16 dport;
	__be16 length;
	__u16 checksum;
	__be32 flags;
	__be32 id;
	__u8 ethernet[12];
	__be16 protocol;
};

#define VXLAN_LEN 50 /* without the padding at the end */

/* 1: the device does it all. netdp sets it. */
volatile __u32 tunnel_by_stack = 0;

/* Whether this host's address, at that place, is an end of the tunnel that the
 * packet belongs to: the tunnel's device has it, and overlay.h sees what is in it.
 * Read in place, since all that hosts send each other comes here; what is less
 * plain is looked at as any other packet. */
static __always_inline int is_tunnel(struct __sk_buff *skb, __u32 own)
{
	void *end = (void *)(long)skb->data_end;
	__u8 *ip = (void *)(long)skb->data + ETH_LEN;
	__u8 *udp = ip + IPV4_LEN, *vxlan = udp + 8;

	if (skb->protocol != ETH_IPV4 || (void *)(vxlan + 8) > end)
		return 0;
	return ip[0] == 0x45 && ip[9] == PROTO_UDP && !(*(__be16 *)(ip + 6) & bpf_htons(0x3fff)) &&
	       *(__be16 *)(udp + 2) == tunnel_port && *(__be32 *)(ip + own) == node_ipv4[3] &&
	       *(__be32 *)vxlan == VXLAN_HAS_ID && *(__be32 *)(vxlan + 4) == bpf_htonl(tunnel_id << 8);
}

/* Has the tunnel's headers lie in one piece with what is before them: some drivers give
 * less. */
static __always_inline void pull_headers(struct __sk_buff *skb)
{
	if (skb->data + ETH_LEN + VXLAN_LEN > skb->data_end && skb->len > ETH_LEN + VXLAN_LEN)
		bpf_skb_pull_data(skb, ETH_LEN + VXLAN_LEN);
}

/* Of a whole IPv4 header without options; 0xffff where its checksum is right. */
static __always_inline __u16 header_sum(const struct ip_header *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < IPV4_LEN / 2; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)((sum & 0xffff) + (sum >> 16));
}

/* The sender's mark of congestion (RFC 3168): the lower two bits of the traffic class. */
#define ECN 3

/* Whether the outer headers say nothing that only the stack heeds: a checksum, a mark
 * of congestion on the way (RFC 6040), bytes behind the packet. */
static __always_inline int is_plain(const struct __sk_buff *skb, const struct vxlan_headers *h)
{
	__u32 length = skb->len - ETH_LEN;

	return !h->checksum && (h->ip.tos & ECN) != ECN && h->ip.length == bpf_htons(length) &&
	       h->length == bpf_htons(length - IPV4_LEN) && header_sum(&h->ip) == 0xffff;
}

/*
 * Segments of a stream are put together (GRO), which is worth more than the shortest
 * way: larger packets go through a link of ours to the host itself, whose other end does
 * that (netdp/gather.go), and the programs then see one packet for dozens. After one of
 * them, for a while, every packet of its flow does, which else would overtake it. What
 * the network's driver has put together is the device's, and so is what is not plain; and
 * after these the flow, in the same way. A flow is known by the port it is sent from,
 * which tunnels take from its hash.
 */
#define TUNNEL_SMALL 1024     /* bytes with all headers; a stream's segments fill the link */
#define TUNNEL_SETTLED_TICKS 20 /* the coarse clock goes in steps of up to 10 ms */
#define TUNNEL_FLOWS 1024

/* In ticks, at the last packet of that kind. */
__u32 large_seen[TUNNEL_FLOWS], device_seen[TUNNEL_FLOWS];

/* The link's end to send by; 0: there is none, and the device gathers. netdp sets it. */
volatile __u32 gather_ifindex = 0;

/* Since boot; of 2^20 ns, 1.05 ms. */
static __always_inline __u32 now_ticks(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() >> 20);
}

static __always_inline void see(__u32 *seen, __u32 now)
{
	if (*seen != now)
		*seen = now;
}

static __always_inline __u32 tunnel_flow(const struct vxlan_headers *h)
{
	return (h->sport ^ h->ip.src ^ h->ip.src >> 16) % TUNNEL_FLOWS;
}

enum way_in { BY_DEVICE, BY_GATHERING, STRAIGHT };

static __always_inline enum way_in way_in(const struct __sk_buff *skb, const struct vxlan_headers *h)
{
	__u32 flow = tunnel_flow(h), now = now_ticks();

	if (skb->gso_size || !is_plain(skb, h)) {
		see(&device_seen[flow], now);
		return BY_DEVICE;
	}
	if (skb->len > TUNNEL_SMALL)
		see(&large_seen[flow], now);
	else if (now - large_seen[flow] > TUNNEL_SETTLED_TICKS)
		return now - device_seen[flow] > TUNNEL_SETTLED_TICKS ? STRAIGHT : BY_DEVICE;
	return gather_ifindex && now - device_seen[flow] > TUNNEL_SETTLED_TICKS ? BY_GATHERING : BY_DEVICE;
}

/* Of bpf_skb_adjust_room, Linux 6.3 and later: what is left is IPv6. */
#define DECAPSULATES_IPV6 (1ULL << 8)

/* The IPv4 end of the tunnel that a packet was decapsulated from, 0: it was not here.
 * Every program that packets to pods begin with sets it. */
#define CB_TUNNEL 1

/* What goes by the gathering link: who sent it is in front, in the place of a hardware
 * address, so packets of two hosts are never put together. */
struct gathered {
	__u8 to[6], from[2];
	__be32 sender;
	__be16 protocol;
} __attribute__((packed));

/* By a queue of this processor's, as the device would. */
static __always_inline int gather(struct __sk_buff *skb, const struct gathered *g, __u32 flow)
{
	if (bpf_skb_store_bytes(skb, 0, g, sizeof(*g), 0))
		return drop(skb, DROP_NOT_REWRITTEN);
	bpf_set_hash(skb, flow); /* the kernel gathers by it */
	skb->queue_mapping = bpf_get_smp_processor_id() + 1;
	return bpf_redirect(gather_ifindex, 0);
}

/*
 * Takes the headers off a packet of the tunnel that is for a pod of this host, from a
 * host of the cell. Returns -1, or a verdict: others, and what is not plain, are the
 * device's, as they were.
 */
__noinline int decapsulate(struct __sk_buff *skb)
{
	const struct vxlan_headers *h = (void *)(long)skb->data + ETH_LEN;
	union { /* one after the other: the stack */
		__be32 addr[4];
		struct gathered g;
	} at = {.addr = {0, 0, V4_MAPPED, 0}};
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	enum way_in way;
	__be16 protocol;
	__be32 sender;
	__u32 flow;

	if (tunnel_by_stack || encrypted || skb->pkt_type != PACKET_HOST ||
	    (void *)h + VXLAN_LEN > (void *)(long)skb->data_end)
		return VERDICT_PASS;
	way = way_in(skb, h);
	if (way == BY_DEVICE)
		return VERDICT_PASS;
	flow = tunnel_flow(h);
	protocol = h->protocol;
	at.addr[3] = sender = h->ip.src;
	if (!bpf_map_lookup_elem(&tunnel_peers, at.addr))
		return VERDICT_PASS;
	if (protocol == ETH_IPV6) {
		flags |= DECAPSULATES_IPV6;
		if (bpf_skb_load_bytes(skb, ETH_LEN + VXLAN_LEN + IPV6_DST, at.addr, 16))
			return VERDICT_PASS;
	} else if (protocol != ETH_IPV4 ||
		   bpf_skb_load_bytes(skb, ETH_LEN + VXLAN_LEN + IP_DST, &at.addr[3], 4)) {
		return VERDICT_PASS;
	}
	if (!bpf_map_lookup_elem(&pods, at.addr) ||
	    bpf_skb_adjust_room(skb, -VXLAN_LEN, BPF_ADJ_ROOM_MAC, flags))
		return VERDICT_PASS;
	if (way == BY_GATHERING) {
		at.g = (struct gathered){.to = {2}, .from = {2}, .sender = sender, .protocol = protocol};
		return gather(skb, &at.g, flow);
	}
	if (bpf_skb_store_bytes(skb, ETH_LEN - 2, &protocol, 2, 0))
		return drop(skb, DROP_NOT_REWRITTEN);
	bpf_set_hash_invalid(skb); /* it was of the headers that are gone */
	skb->cb[CB_TUNNEL] = sender;
	return -1;
}

/* The other end of the tunnel that a packet came by; 0: it came by none. */
static __always_inline __be32 tunnel_end(struct __sk_buff *skb)
{
	struct bpf_tunnel_key tunnel = {};

	if (skb->cb[CB_TUNNEL])
		return skb->cb[CB_TUNNEL];
	if (bpf_skb_get_tunnel_key(skb, &tunnel, __builtin_offsetof(struct bpf_tunnel_key, local_ipv4), 0))
		return 0;
	return bpf_htonl(tunnel.remote_ipv4);
}

/* What the outer header says of congestion (RFC 6040, section 4.1; of a mark on the way
 * the kernel's tunnels tell the outer one only that there may be more). */
static __always_inline __u8 outer_tos(struct __sk_buff *skb)
{
	__u8 start[2] = {};
	__u8 ecn;

	bpf_skb_load_bytes(skb, ETH_LEN, start, 2);
	ecn = (skb->protocol == ETH_IPV6 ? start[1] >> 4 : start[1]) & ECN;
	return ecn == ECN ? 2 : ecn;
}

/* As the kernel takes it for tunnels (udp_flow_src_port, of the range that it gives to
 * programs unless told otherwise), so that a flow keeps it by either way. */
static __always_inline __be16 tunnel_source_port(struct __sk_buff *skb)
{
	__u32 hash = bpf_get_hash_recalc(skb);

	hash ^= hash << 16;
	return bpf_htons((__u16)(((__u64)hash * (60999 - 32768) >> 32) + 32768));
}

/* Of bpf_fib_lookup, Linux 6.3 and later: the neighbour is looked up as it is sent. */
#define FIB_SKIP_NEIGH 8

/* The link and the next machine on the way of what h begins; not 0: there is none, or
 * it does not fit. */
static __always_inline int way_of_tunnel(struct __sk_buff *skb, const struct vxlan_headers *h,
					 struct bpf_fib_lookup *fib)
{
	long found;

	fib->family = AF_INET;
	fib->l4_protocol = PROTO_UDP;
	fib->sport = h->sport;
	fib->dport = h->dport;
	fib->tot_len = skb->gso_size ? 0 : bpf_ntohs(h->ip.length);
	fib->ipv4_src = h->ip.src;
	fib->ipv4_dst = h->ip.dst;
	fib->ifindex = skb->ifindex;
	found = bpf_fib_lookup(skb, fib, sizeof(*fib), FIB_SKIP_NEIGH);
	if (found < 0) {
		fib->tot_len = skb->gso_size ? 0 : bpf_ntohs(h->ip.length);
		found = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
	}
	return found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* Whether the device's program has nothing to change: it is no answer to a call of
 * another machine, nor an error about one. Not inlined: the stack. */
__noinline int leaves_as_it_is(struct __sk_buff *skb)
{
	struct packet p = {};
	struct flow_key key;

	if (parse(skb, &p) || !has_ports(&p) || is_error(&p))
		return 0;
	key = key_of(&p, FLOW_REPLY);
	return !bpf_map_lookup_elem(&flows, &key);
}

/*
 * Sends what a pod sends to a pod of the host at that address, by the link that the
 * routes say. Returns -1 for what is left to the device, as it was. The kernel cuts a
 * stream into segments as the device has it do, headers and all.
 */
__noinline int encapsulate(struct __sk_buff *skb, __be32 host)
{
	struct vxlan_headers h = {
		.ip = {.version_length = 0x45, .ttl = 64, .proto = PROTO_UDP, .dst = host},
		.flags = VXLAN_HAS_ID,
		.ethernet = NO_DEVICE,
	};
	__u32 length = skb->len - ETH_LEN + VXLAN_LEN;
	struct bpf_fib_lookup fib = {};
	struct bpf_redir_neigh hop = {};

	if (tunnel_by_stack || skb->vlan_present || length > IP_LENGTH_MAX || !leaves_as_it_is(skb))
		return -1;
	h.ip.tos = outer_tos(skb);
	h.ip.length = bpf_htons(length);
	h.ip.id = (__be16)bpf_get_prandom_u32();
	h.ip.src = node_ipv4[3];
	h.ip.checksum = ~header_sum(&h.ip);
	h.sport = tunnel_source_port(skb);
	h.dport = tunnel_port;
	h.length = bpf_htons(length - IPV4_LEN);
	h.id = bpf_htonl(tunnel_id << 8);
	h.protocol = skb->protocol;
	if (way_of_tunnel(skb, &h, &fib))
		return -1;
	if (bpf_skb_adjust_room(skb, VXLAN_LEN, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
				BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_LEN) |
				BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return -1;
	if (bpf_skb_store_bytes(skb, ETH_LEN, &h, VXLAN_LEN, BPF_F_RECOMPUTE_CSUM))
		return drop(skb, DROP_NOT_REWRITTEN);
	hop.nh_family = fib.family;
	if (fib.family == AF_INET6)
		set_addr(hop.ipv6_nh, fib.ipv6_dst);
	else
		hop.ipv4_nh = fib.ipv4_dst;
	return bpf_redirect_neigh(fib.ifindex, &hop, sizeof(hop), 0);
}

#endif
