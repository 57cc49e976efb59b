// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * While this program takes the place of one that uses other maps, both are on the
 * interface, this one first. It leaves to the older one what only that one knows:
 * connections that were begun by it and are not carried over yet. Without that, the
 * second packet of a connection may find no entry of the first.
 */
#ifndef SHOAL_TAKEOVER_H
#define SHOAL_TAKEOVER_H

#include "errors.h"

#define VERDICT_NEXT (-1) /* TCX_NEXT: the next program on the interface decides */

/* By the clock that began at boot; ends by itself, should netdp be killed. */
volatile __u64 takeover_until_ns = 0;

/* Not 0: on both sides of every interface, so connections may begin here. A SYN that is
 * taken at one side alone is answered at the other by who does not know it. */
volatile __u32 takeover_complete = 0;

static __always_inline int begins_tcp(const struct packet *p)
{
	return p->proto == PROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline int answers_syn(const struct packet *p)
{
	return p->proto == PROTO_TCP &&
	       (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}

static __always_inline int taking_over(void)
{
	return takeover_until_ns && bpf_ktime_get_ns() <= takeover_until_ns;
}

/* Tells whether the older program has to judge this: it belongs to no connection that
 * is known here, and begins none. A datagram may belong to one. */
static __always_inline int left_to_older(struct __sk_buff *skb, int ingress)
{
	struct flow_key key;
	struct packet p = {};

	if (!taking_over())
		return 0;
	if (parse(skb, &p) || !has_ports(&p) || is_error(&p))
		return 1;
	if (begins_tcp(&p) && takeover_complete)
		return 0;
	key = key_of(&p, FLOW_REPLY);
	if (ingress ? bpf_map_lookup_elem(&nats, &key) : bpf_map_lookup_elem(&flows, &key))
		return 0;
	key = ingress ? key_of(&p, FLOW_REQUEST) : key_of(&p, FLOW_OUT);
	return !bpf_map_lookup_elem(&flows, &key);
}

#endif
