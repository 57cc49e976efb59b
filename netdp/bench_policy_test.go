package netdp

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"shoal/netdp/policy"
	"shoal/netdp/policy/tables"
)

// manyRules is one policy of n rules, for the pods of app=server and in both
// directions: every second rule is a block of addresses, the others select pods.
// The last rule allows app=client.
func manyRules(n int) *networkingv1.NetworkPolicy {
	p := netpol("many", "", networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	for i := range n {
		peer := networkingv1.NetworkPolicyPeer{PodSelector: labelled("app", fmt.Sprint("app-", i))}
		if i%2 == 0 {
			peer = networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("172.%d.%d.0/24", 16+i>>8, i&0xff)}}
		}
		if i == n-1 {
			peer = networkingv1.NetworkPolicyPeer{PodSelector: labelled("bench", "policy")}
		}
		peers, ports := []networkingv1.NetworkPolicyPeer{peer}, []networkingv1.NetworkPolicyPort{policyPort(int32(1000 + i)), policyPort(9090)}
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peers, Ports: ports})
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peers, Ports: ports})
	}
	p.Spec.PodSelector = *labelled("bench", "policy")
	return p
}

// BenchmarkPolicy compares the round trip of one byte between two pods that 1,000
// rules are about with one between two that none is. The two take turns.
func BenchmarkPolicy(b *testing.B) {
	const rules = 1000
	l := newLab(b)
	d := l.openUntilEnd()
	x := policy.NewIndex()
	l.must(x.SetPolicy(manyRules(rules)))
	for i := range rules { // a pod of its own for each rule
		pod := podObject("default", fmt.Sprint("other-", i), app(fmt.Sprint("app-", i)))
		state := policy.PodOf(pod)
		state.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 65, byte(i >> 8), byte(i)})}
		x.SetPod(state)
	}
	var conns [2]net.Conn
	for i, labels := range []map[string]string{{}, {"bench": "policy"}} {
		var ends [2]namespace
		var addr netip.Addr
		for j := range ends {
			obj := podObject("default", fmt.Sprintf("bench-%d-%d", i, j), labels)
			ends[j], addr = l.pod(d, obj.Name)
			x.SetPod(policy.PodOf(obj))
			x.Attach(tables.LocalPod{UID: obj.Name, Namespace: "default", Name: obj.Name, Addrs: []netip.Addr{addr}})
		}
		l.must(d.SetPolicy(x.Flush(true)))
		conns[i] = l.echo(b, ends[0], ends[1], netip.AddrPortFrom(addr, 9090))
	}
	var times [2][]time.Duration
	buf := make([]byte, 1)
	for b.Loop() {
		for i, c := range conns {
			start := time.Now()
			_, err := c.Write(buf)
			l.must(err)
			_, err = io.ReadFull(c, buf)
			l.must(err)
			times[i] = append(times[i], time.Since(start))
		}
	}
	none, policed := microseconds(p50(times[0])), microseconds(p50(times[1]))
	b.ReportMetric(policed/none, "ratio")
	b.ReportMetric(policed, "policy-µs")
	b.ReportMetric(none, "none-µs")
}

// echo connects two pods by a server that sends back each byte.
func (l *lab) echo(b *testing.B, from, to namespace, addr netip.AddrPort) net.Conn {
	b.Helper()
	var ln net.Listener
	l.must(to.do(func() (err error) {
		ln, err = new(net.ListenConfig).Listen(context.Background(), "tcp4", addr.String())
		return err
	}))
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 1)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	c, err := dial(from, "tcp4", addr.String())
	l.must(err)
	b.Cleanup(func() { _ = c.Close() })
	return c
}
