// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The daemon serves names to the pods of its host, at an address of the host's. While
 * no daemon has a socket there, as after it was killed, the stack tells pods that there
 * is nobody, and resolvers give up at once. Pods hear nothing instead, and ask again
 * until the next daemon answers.
 */
#ifndef SHOAL_SILENCE_H
#define SHOAL_SILENCE_H

#include "packet.h"

#define ICMP_UNREACHABLE_TYPE 3
#define ICMP_PORT_UNREACHABLE 3

/* Whether the host tells, in the server's name, that nothing has the port: by ICMP,
 * or by the reset that answers a SYN, whose sequence number alone is 0 (RFC 9293,
 * section 3.10.7.1). */
static __always_inline int tells_of_nobody(struct __sk_buff *skb)
{
	__u8 version, proto, what[2];
	__u32 transport;
	__be32 src, sequence;

	if (skb->protocol != ETH_IPV4 || !server_ipv4[3] ||
	    bpf_skb_load_bytes(skb, ETH_LEN + IP_SRC, &src, 4) || src != server_ipv4[3] ||
	    bpf_skb_load_bytes(skb, ETH_LEN, &version, 1) ||
	    bpf_skb_load_bytes(skb, ETH_LEN + 9, &proto, 1))
		return 0;
	transport = ETH_LEN + (version & 0x0f) * 4;
	if (proto == PROTO_ICMP)
		return !bpf_skb_load_bytes(skb, transport, what, 2) &&
		       what[0] == ICMP_UNREACHABLE_TYPE && what[1] == ICMP_PORT_UNREACHABLE;
	return proto == PROTO_TCP && !bpf_skb_load_bytes(skb, transport + 13, what, 1) &&
	       what[0] & TCP_RST && !bpf_skb_load_bytes(skb, transport + TCP_SEQUENCE, &sequence, 4) &&
	       !sequence;
}

#endif
