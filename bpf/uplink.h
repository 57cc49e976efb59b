// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * At the interfaces to other machines. What calls a service of ours gets a
 * backend chosen by Maglev, so every host chooses alike; its replies get the
 * service's address back. The caller's address is kept when the backend is on
 * this host. Else the call is handed over to the backend's host where the two share
 * address and link (handover.h), and otherwise goes on in this host's name (nat.h),
 * since the answer would go past us.
 */
#ifndef SHOAL_UPLINK_H
#define SHOAL_UPLINK_H

#include "affinity.h"
#include "bare.h"
#include "begun.h"
#include "errors.h"
#include "handover.h"
#include "hostsocket.h"
#include "masquerade.h"
#include "sources.h"
#include "takeover.h"
#include "vxlan.h"

static __always_inline __u32 flow_hash(const struct packet *p)
{
	__u32 h = mix_addr(mix_addr(maglev_seed, p, p->src), p, p->dst);

	return mix(h, (__u32)bpf_ntohs(p->sport) << 16 | bpf_ntohs(p->dport));
}

/* Entries that are looked at when the table is being changed. */
#define MAGLEV_TRIES 4

static __always_inline struct backend *pick_maglev(const struct packet *p, const struct frontend *fe,
						   const struct service *svc, __u32 service,
						   __u32 *id)
{
	struct maglev_chunk *chunk;
	struct maglev_key key;
	struct backend *b;
	__u32 size, entry;

	size = svc->maglev;
	/* By the client alone every host leads it to the same backend. */
	entry = svc->affinity_seconds ? mix_addr(maglev_seed, p, p->src) : flow_hash(p);
	for (int i = 0; size && i < MAGLEV_TRIES; i++, entry++) {
		entry %= size;
		key.service = service;
		key.chunk = entry / MAGLEV_CHUNK;
		chunk = bpf_map_lookup_elem(&maglev, &key);
		if (chunk) {
			*id = chunk->backend[entry % MAGLEV_CHUNK];
			b = backend_of(*id, service);
			if (b && b->state & BACKEND_OUTSIDE)
				return b;
		}
	}
	if (fe->flags & FRONTEND_EXACT)
		return 0;
	/* The table is being changed. */
	return pick_backend(svc, service, BACKEND_INSIDE | BACKEND_OUTSIDE, id);
}

/* The backend of a new flow. */
static __always_inline struct backend *choose_for(const struct packet *p, const struct frontend *fe,
						  __u32 *id)
{
	struct affinity_key client = {.service = fe->service};
	struct service *svc = bpf_map_lookup_elem(&services, &client.service);
	struct backend *b;

	set_addr(client.client, p->src);
	if (!svc)
		return 0;
	if (!svc->affinity_seconds)
		return pick_maglev(p, fe, svc, client.service, id);
	b = kept_backend(&client, svc->affinity_seconds, BACKEND_OUTSIDE, id);
	if (b)
		return b;
	b = pick_maglev(p, fe, svc, client.service, id);
	if (b)
		keep_backend(&client, *id);
	return b;
}

static __always_inline struct frontend *outside_frontend(const struct packet *p)
{
	struct frontend_key key = {
		.port = p->dport,
		.proto = p->proto,
	};
	struct frontend *fe;

	set_addr(key.addr, p->dst);
	fe = bpf_map_lookup_elem(&frontends, &key);
	if (fe)
		return fe->flags & FRONTEND_OUTSIDE ? fe : 0;
	if (!in_node_port_range(p->dport) || !bpf_map_lookup_elem(&node_addrs, key.addr))
		return 0;
	return node_port_frontend(p->dport, p->proto, p->v6 != 0);
}

/* What opens a connection, and every datagram, is judged as new. */
static __always_inline int opens(const struct packet *p)
{
	return p->proto == PROTO_UDP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * An entry counts only while its backend belongs to the service it was made
 * for: numbers are used again, so the address must agree too. What opens a
 * connection, and every datagram, also needs a backend that takes new ones.
 */
static __always_inline int still_valid(const struct flow *f, const struct packet *p, __u32 service)
{
	struct backend *b;

	if (f->service != service)
		return 0;
	b = backend_of(f->backend, service);
	if (!b || b->port != f->port || !same_addr(b->addr, f->addr))
		return 0;
	return !opens(p) || b->state & BACKEND_OUTSIDE;
}

/* An open TCP connection to a pod of this host goes on after the pod has left the
 * service; one that is no more is refused by whom the service leads to now. */
static __always_inline int outlives_service(const struct flow *f, const struct packet *p,
					    __u32 service)
{
	return f->service == service && !opens(p) && bpf_map_lookup_elem(&pods, f->addr);
}

static __always_inline int from_allowed(const struct packet *p, const struct frontend *fe)
{
	return !(fe->flags & FRONTEND_SOURCES) || source_allowed(fe->service, p->src);
}

/*
 * Has the backend's answers get the address that this packet called. The backend
 * sees one connection of a client's port, by whatever address it is called, so
 * who called last is answered: an entry of a call that has ended says nothing
 * about a later one. A SYN by another address waits for the backend's SYN-ACK, as
 * one past the service does, and other segments do not count. Written only when
 * something changes.
 */
static __always_inline int remember_reply(const struct packet *p, const struct flow *f)
{
	struct flow_key back = key_of_answer(p, FLOW_REPLY);
	struct flow called = {
		.port = p->dport,
		.service = f->service,
		.backend = f->backend,
	};
	struct flow *have;

	set_addr(back.src, f->addr);
	back.sport = f->port;
	set_addr(called.addr, p->dst);
	have = bpf_map_lookup_elem(&flows, &back);
	if (have && have->port == called.port && same_addr(have->addr, called.addr)) {
		if (!have->nat_port && have->backend == called.backend &&
		    have->service == called.service)
			return 0;
	} else if (have && p->proto == PROTO_TCP) {
		if (!opens(p))
			return 0;
		have->nat_port = CALLED_ANEW;
		back.direction = FLOW_ANEW;
	}
	return bpf_map_update_elem(&flows, &back, &called, BPF_ANY);
}

/*
 * A packet to no service: when it begins something, answers to it must not get
 * the address of a service that the same client called from the same port
 * before. A datagram ends that at once. A SYN only marks it, and the backend's
 * SYN-ACK ends it: a backend that still has the old connection does not send
 * one, so who guesses the ports of a connection cannot end it (RFC 5961,
 * section 4; nf_conntrack heeds a SYN by the answer too).
 */
static __always_inline void called_past_services(const struct packet *p)
{
	struct flow_key back = key_of_answer(p, FLOW_REPLY);
	struct flow *f;

	if (!opens(p))
		return;
	f = bpf_map_lookup_elem(&flows, &back);
	if (!f)
		return;
	if (p->proto == PROTO_TCP)
		f->nat_port = CALLED_PAST;
	else
		bpf_map_delete_elem(&flows, &back);
}

/*
 * Tells whether this answer is to a call since: a SYN-ACK, or the reset of a
 * closed port, which alone has the sequence number 0 (RFC 9293, section
 * 3.10.7.1). A SYN of the backend's own answers nobody.
 */
static __always_inline int answers_later_call(struct __sk_buff *skb, const struct packet *p,
					      const struct flow *f)
{
	__u8 flags = p->tcp_flags;
	__be32 sequence = 1;

	if (p->proto != PROTO_TCP)
		return 0;
	if (flags & TCP_SYN)
		return f->nat_port || !(flags & TCP_ACK);
	if (!f->nat_port || !(flags & TCP_RST) ||
	    bpf_skb_load_bytes(skb, p->transport + TCP_SEQUENCE, &sequence, 4))
		return 0;
	return !sequence;
}

/* What the answer p is to; null: to nothing that we know of. */
static __always_inline struct flow *answered_flow(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key = key_of(p, FLOW_REPLY);
	struct flow *f = bpf_map_lookup_elem(&flows, &key), *anew = 0;
	struct flow called;

	if (!f || !answers_later_call(skb, p, f))
		return f;
	if (f->nat_port == CALLED_ANEW && p->tcp_flags & TCP_ACK) {
		key.direction = FLOW_ANEW;
		anew = bpf_map_lookup_elem(&flows, &key);
		key.direction = FLOW_REPLY;
	}
	if (!anew) {
		bpf_map_delete_elem(&flows, &key);
		return 0;
	}
	called = *anew;
	bpf_map_update_elem(&flows, &key, &called, BPF_ANY);
	return bpf_map_lookup_elem(&flows, &key);
}

/*
 * A pod of this host sends nothing by the links to other machines that comes
 * back with its address: what is for this host or its pods never leaves. A
 * router that returns it is only heeded where a service of ours was called whose
 * backend is elsewhere; that goes on in this host's name. Pods whose network is
 * another driver's are not asked for: some of those networks (macvlan by a switch that
 * reflects) lead from pod to host by the link.
 *
 * The same holds of the host itself, and of what its daemon serves pods at: the stack
 * refuses IPv4 of that kind, but not IPv6, and what goes past it must not reach a pod
 * in a connection that the host has with it. Known are the addresses of its Node; one
 * with another address of the host's is nobody who may call an isolated pod (policy.h).
 */
static __always_inline int is_own(const __be32 *addr)
{
	return bpf_map_lookup_elem(&pods, addr) || bpf_map_lookup_elem(&node_addrs, addr) ||
	       (is_mapped(addr) && addr[3] && addr[3] == server_ipv4[3]);
}

/* Has the stack refuse a call to an address that is not the host's own: it gets the
 * host's, and a port that no socket can have, and the refusal goes by the called one. */
static __always_inline int have_refused(struct __sk_buff *skb, const struct packet *p, __u32 service)
{
	struct flow nobody = {.service = service};

	own_address(p, nobody.addr);
	if (is_unset(nobody.addr))
		return drop(skb, DROP_NO_NODE_ADDRESS);
	if (is_own(p->src))
		return drop(skb, DROP_SPOOFED_SOURCE);
	if (remember_reply(p, &nobody))
		return drop(skb, DROP_FLOW_NOT_KEPT);
	called_by_outside(skb, service, 0);
	return rewrite(skb, p, END_DST, nobody.addr, 0) ? drop(skb, DROP_NOT_REWRITTEN) : VERDICT_PASS;
}

/*
 * Without any backend the stack refuses the caller, as kube-proxy's REJECT does.
 * Backends on other hosts alone, which the service keeps to itself, do not make it
 * refused: some other host serves it.
 */
static __always_inline int nobody_serves(struct __sk_buff *skb, const struct packet *p,
					 const struct frontend *fe)
{
	__u32 service = fe->service;
	struct service *svc = bpf_map_lookup_elem(&services, &service);

	if (fe->flags & FRONTEND_EXACT && svc && (__u32)svc->extent)
		return drop(skb, DROP_NO_LOCAL_BACKEND);
	/* Whoever is refused is counted as dropped; who is dropped, once. */
	if (!bpf_map_lookup_elem(&node_addrs, p->dst))
		return have_refused(skb, p, service);
	called_by_outside(skb, service, 0);
	return VERDICT_PASS;
}

/* On to another machine. */
static __always_inline int send_on(struct __sk_buff *skb, struct packet *p,
				   struct flow_key *key, struct flow *f, int known)
{
	int verdict, plainly = 0;
	address to;

	set_addr(to, f->addr);
	if (known)
		plainly = begun_plainly(skb, p, key, f, &to);
	if (plainly < 0)
		return drop(skb, DROP_NOT_ENCRYPTED);
	verdict = hand_over(skb, p, f, to);
	if (verdict >= 0)
		return verdict;
	return plainly ? drop(skb, DROP_NOT_ENCRYPTED) : pass_on(skb, p, key, f);
}

/* To a pod of this host, to the host itself, or on to another machine. */
static __always_inline int forward(struct __sk_buff *skb, struct packet *p,
				   struct flow_key *key, struct flow *f, int known, int handed)
{
	struct pod *pod = bpf_map_lookup_elem(&pods, f->addr);

	if (!pod && !bpf_map_lookup_elem(&node_addrs, f->addr) &&
	    !bpf_map_lookup_elem(&routed_pods, f->addr))
		return handed ? pass_on(skb, p, key, f) : send_on(skb, p, key, f, known);
	if (is_own(p->src))
		return drop(skb, DROP_SPOOFED_SOURCE);
	if (handed && set_dscp(skb, p, 0))
		return drop(skb, DROP_NOT_REWRITTEN);
	if (rewrite(skb, p, END_DST, f->addr, f->port))
		return drop(skb, DROP_NOT_REWRITTEN);
	if (!pod)
		return VERDICT_PASS;
	return redirect_to_pod(skb, pod->ifindex);
}

/* What a packet from another machine becomes, by whatever device it came. */
static __always_inline int from_outside(struct __sk_buff *skb, struct packet *p)
{
	struct flow_key key;
	struct flow fresh = {};
	struct frontend *fe;
	struct backend *b;
	struct flow *f;
	int known, handed;

	if (is_error(p) || !has_ports(p)) {
		if (is_own(p->src))
			return drop(skb, DROP_SPOOFED_SOURCE);
		return is_error(p) ? error_from_outside(skb, p) : VERDICT_PASS;
	}
	if (in_nat_range(p->dport)) {
		struct nat *n = nat_of_answer(p);

		if (n) {
			if (answers_syn(p))
				begins_anew(skb, p, n);
			return pass_back(skb, p, n);
		}
	}
	fe = outside_frontend(p);
	if (!fe) {
		if (is_own(p->src))
			return drop(skb, DROP_SPOOFED_SOURCE);
		called_past_services(p);
		return called_from_outside(skb, p);
	}
	handed = was_handed(skb, p);
	key = key_of(p, FLOW_REQUEST);
	f = bpf_map_lookup_elem(&flows, &key);
	if ((!f || opens(p)) && !from_allowed(p, fe))
		return drop(skb, DROP_SOURCE_RANGE);
	known = f && (still_valid(f, p, fe->service) || outlives_service(f, p, fe->service));
	if (known) {
		fresh = *f;
	} else {
		if (fe->flags & FRONTEND_OWN && host_talks_to(skb, p))
			return VERDICT_PASS;
		b = choose_for(p, fe, &fresh.backend);
		if (!b || is_mapped(b->addr) == (p->v6 != 0))
			return nobody_serves(skb, p, fe);
		if (!handed) /* who handed it over has counted it */
			called_by_outside(skb, fe->service, fresh.backend);
		set_addr(fresh.addr, b->addr);
		fresh.port = b->port;
		fresh.service = fe->service;
		if (bpf_map_update_elem(&flows, &key, &fresh, BPF_ANY))
			return drop(skb, DROP_FLOW_NOT_KEPT);
	}
	/* What is passed on is answered by nat.h. */
	if (!fresh.nat_port && (!known || opens(p)) && remember_reply(p, &fresh))
		return drop(skb, DROP_FLOW_NOT_KEPT);
	return forward(skb, p, &key, &fresh, known, handed);
}

/* Gives an answer to another machine the address that was called, and what a
 * pod sends there by itself an address of ours. */
static __always_inline int to_outside(struct __sk_buff *skb)
{
	struct packet p = {};
	struct flow *f;

	if (parse(skb, &p))
		return masquerade_rest(skb, &p, DROP_MALFORMED);
	if (is_error(&p))
		return error_to_outside(skb, &p);
	if (!has_ports(&p))
		return masquerade_rest(skb, &p, DROP_NO_PORTS);
	f = answered_flow(skb, &p);
	if (!f)
		return masquerade(skb, &p);
	if (rewrite(skb, &p, END_SRC, f->addr, f->port))
		return drop(skb, DROP_NOT_REWRITTEN);
	return VERDICT_PASS;
}

/* What from_outside leaves, which may have sent it to another address, goes past
 * the stack when it is for a pod of this host. */
static __always_inline int to_own_pod(struct __sk_buff *skb, struct packet *p)
{
	struct pod *pod;

	if (p->v6 ? bpf_skb_load_bytes(skb, ETH_LEN + IPV6_DST, p->dst, 16)
		  : bpf_skb_load_bytes(skb, ETH_LEN + IP_DST, &p->dst[3], 4))
		return drop(skb, DROP_MALFORMED);
	pod = bpf_map_lookup_elem(&pods, p->dst);
	if (!pod)
		return VERDICT_PASS;
	return redirect_to_pod(skb, pod->ifindex);
}

#define VLAN_ID 0x0fff /* 0: a priority alone (IEEE 802.1Q, section 9.6) */

/* Whether a frame is of an interface above this one, with a VLAN's number: the kernel
 * takes the tag off before it asks programs. That interface may be an uplink itself. */
static __always_inline int is_of_vlan(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_ID;
}

SEC("tc")
int uplink_ingress(struct __sk_buff *skb)
{
	struct packet p = {};
	int verdict;

	skb->cb[CB_TUNNEL] = 0;
	if (encrypted && came_bare(skb))
		return drop(skb, DROP_NOT_ENCRYPTED);
	if (is_of_vlan(skb))
		return VERDICT_PASS;
	if (left_to_older(skb, 1))
		return VERDICT_NEXT;
	/* A link that is listened on for all, or a bridge's port, shows other machines'
	 * frames too; the stack leaves them. */
	if (skb->pkt_type == PACKET_OTHERHOST)
		return VERDICT_PASS;
	pull_headers(skb);
	if (is_tunnel(skb, IP_DST)) {
		verdict = decapsulate(skb);
		if (verdict >= 0)
			return verdict;
	}
	if (parse(skb, &p))
		return skb->cb[CB_TUNNEL] ? drop(skb, DROP_MALFORMED) : VERDICT_PASS;
	verdict = from_outside(skb, &p);
	if (verdict != VERDICT_PASS || skb->pkt_type != PACKET_HOST)
		return verdict;
	return to_own_pod(skb, &p);
}

SEC("tc")
int uplink_egress(struct __sk_buff *skb)
{
	if (encrypted && leaves_bare(skb))
		return drop(skb, DROP_NOT_ENCRYPTED);
	if (is_of_vlan(skb))
		return VERDICT_PASS;
	if (left_to_older(skb, 0))
		return VERDICT_NEXT;
	return is_tunnel(skb, IP_SRC) ? VERDICT_PASS : to_outside(skb);
}

#endif
