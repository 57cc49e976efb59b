// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * A hostPort may be a port that the kernel gives to a program of the host which
 * calls out (net.ipv4.ip_local_port_range): the answers to that program are not
 * calls of the hostPort. Node ports lie below that range.
 */
#ifndef SHOAL_HOSTSOCKET_H
#define SHOAL_HOSTSOCKET_H

#include "packet.h"

#define SOCKET_ESTABLISHED 1 /* TCP's, and of a UDP socket that is connected */
#define SOCKET_LISTEN 10

/* Tells whether a socket of the host is connected to who sent this packet. */
static __always_inline int host_talks_to(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 size = sizeof(tuple.ipv4);
	int talks;

	if (p->v6) {
		set_addr(tuple.ipv6.saddr, p->src);
		set_addr(tuple.ipv6.daddr, p->dst);
		tuple.ipv6.sport = p->sport;
		tuple.ipv6.dport = p->dport;
		size = sizeof(tuple.ipv6);
	} else {
		tuple.ipv4.saddr = p->src[3];
		tuple.ipv4.daddr = p->dst[3];
		tuple.ipv4.sport = p->sport;
		tuple.ipv4.dport = p->dport;
	}
	if (p->proto == PROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	talks = p->proto == PROTO_UDP ? sk->state == SOCKET_ESTABLISHED : sk->state != SOCKET_LISTEN;
	bpf_sk_release(sk);
	return talks;
}

#endif
