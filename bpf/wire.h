// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * At the device that encrypts between hosts, where packets have no hardware
 * header. WireGuard lets a packet in only from the host that has its source, so
 * nobody's address is looked at here.
 */
#ifndef SHOAL_WIRE_H
#define SHOAL_WIRE_H

#include "overlay.h"

/* Pods' links want a hardware header, and the other programs reckon with one. The
 * stack gets the packet without it all the same. */
SEC("tc")
int wire_ingress(struct __sk_buff *skb)
{
	__be16 protocol = (__be16)skb->protocol;

	if (bpf_skb_change_head(skb, ETH_LEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_LEN - 2, &protocol, 2, 0)) {
		count_drop(DROP_NOT_REWRITTEN); /* where its ends are is not certain */
		return VERDICT_DROP;
	}
	skb->cb[CB_TUNNEL] = 0;
	return from_tunnel(skb);
}

/* Gives an answer to another host, or its pods, the address that was called. */
SEC("tc")
int wire_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	struct flow *f;

	if (parse_headless(skb, &p))
		return VERDICT_PASS;
	if (is_error(&p))
		return error_to_outside(skb, &p);
	if (!has_ports(&p))
		return VERDICT_PASS;
	f = answered_flow(skb, &p);
	if (!f || !rewrite(skb, &p, END_SRC, f->addr, f->port))
		return VERDICT_PASS;
	count_drop(DROP_NOT_REWRITTEN);
	return VERDICT_DROP;
}

#endif
