// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Connections of TCP that were handed over before the cell encrypted. The backend
 * knows the caller by its own address, so in this host's name they would end: they
 * go on being handed over, by the link that the caller's packets come by in the clear
 * themselves. What begins goes the encrypted way, also from the same ports.
 *
 * A SYN from the ports of such a connection may be forged, and must not end it. It is
 * passed on beside it (FLOW_ANEW), and has its place only once the caller has
 * acknowledged the backend's SYN-ACK: who cannot see that guesses two numbers of 32 bits.
 */
#ifndef SHOAL_BEGUN_H
#define SHOAL_BEGUN_H

#include "handover.h"
#include "takeover.h"

/* The sequence number of a segment of TCP and the one it acknowledges. */
struct numbers {
	__be32 own;
	__be32 acknowledged;
};

static __always_inline int load_numbers(struct __sk_buff *skb, const struct packet *p,
					struct numbers *n)
{
	return (int)bpf_skb_load_bytes(skb, p->transport + TCP_SEQUENCE, n, sizeof(*n));
}

/* Of a SYN-ACK to what is passed on: by which numbers the caller will acknowledge it.
 * Not inlined, as the next: both are rare, and the verifier looks at them once. */
__noinline int begins_anew(struct __sk_buff *skb, struct packet *p, struct nat *n)
{
	struct flow_key key = {.direction = FLOW_ANEW};
	struct numbers numbers;
	struct flow *anew;

	if (!p || !n || load_numbers(skb, p, &numbers))
		return 0;
	key.sport = n->client_port;
	key.dport = n->called_port;
	key.proto = p->proto;
	set_addr(key.src, n->client);
	set_addr(key.dst, n->called);
	anew = bpf_map_lookup_elem(&flows, &key);
	if (!anew || anew->nat_port != p->dport)
		return 0;
	anew->service = numbers.acknowledged;
	anew->backend = bpf_htonl(bpf_ntohl(numbers.own) + 1);
	return 0;
}

static __always_inline int acknowledges(struct __sk_buff *skb, const struct packet *p,
					const struct flow *anew)
{
	struct numbers numbers;

	return !load_numbers(skb, p, &numbers) && numbers.own == anew->service &&
	       numbers.acknowledged == anew->backend;
}

/* 1: a packet of a known connection, f, is of one that was handed over to a host which
 * is reached only encrypted by now, and whose address on the link is put in host; -1:
 * that is not known yet. What is of a later connection of the same ports has that
 * one's key and f put in place. */
__noinline int begun_plainly(struct __sk_buff *skb, struct packet *p, struct flow_key *key,
			     struct flow *f, address *host)
{
	struct range *range;
	struct flow *anew;

	if (!p || !key || !f || !host || p->proto != PROTO_TCP || f->nat_port)
		return 0;
	range = find_range(&ranges, f->addr);
	if (!range || (range->flags & (RANGE_WIRE | RANGE_HOST | RANGE_OWN)) != RANGE_WIRE)
		return 0;
	key->direction = FLOW_ANEW;
	anew = bpf_map_lookup_elem(&flows, key);
	if (begins_tcp(p)) {
		f->nat_port = anew ? anew->nat_port : 0;
		return 0;
	}
	if (anew && acknowledges(skb, p, anew)) {
		f->nat_port = anew->nat_port;
		bpf_map_delete_elem(&flows, key);
		key->direction = FLOW_REQUEST;
		bpf_map_update_elem(&flows, key, f, BPF_ANY);
		return 0;
	}
	if (!range->family)
		return -1;
	set_addr(*host, range->host);
	if (range->family == AF_INET) {
		(*host)[3] = (*host)[0];
		(*host)[2] = V4_MAPPED;
		(*host)[0] = 0;
	}
	return 1;
}

#endif
