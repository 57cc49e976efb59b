package netdp

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	networkingv1 "k8s.io/api/networking/v1"

	"shoal/netdp/policy/tables"
)

// fullMap is a map of one entry, taken, of the same keys and values as m.
func fullMap(l *policyLab, m *ebpf.Map) *ebpf.Map {
	l.t.Helper()
	small, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "full", Type: m.Type(), KeySize: m.KeySize(), ValueSize: m.ValueSize(), MaxEntries: 1, Flags: m.Flags(),
	})
	l.must(err)
	l.t.Cleanup(func() { small.Close() })
	l.must(small.Put(make([]byte, m.KeySize()), make([]byte, m.ValueSize())))
	return small
}

// A map of policies that is full keeps nobody from a network, unless it is the
// one that would hold the pod itself.
func TestPodsWhilePolicyMapsAreFull(t *testing.T) {
	l := newPolicyLab(t)
	l.apply(netpol("deny", "db", networkingv1.PolicyTypeIngress))
	swap := func(replace func(p *policyMaps)) {
		l.d.policyMu.Lock()
		defer l.d.policyMu.Unlock()
		replace(l.d.policy)
	}
	peers, subjects := l.d.policy.peers.m, l.d.policy.subjects.m
	noPeers, noSubjects := fullMap(l, peers), fullMap(l, subjects)
	swap(func(p *policyMaps) { p.peers.m = noPeers })
	err := l.d.SetPolicy(tables.Change{Peers: map[netip.Addr]tables.ID{netip.MustParseAddr("10.64.9.9"): 100}})
	if !errors.Is(err, ErrFull) {
		t.Fatalf("a peer without room: %v", err)
	}
	if l.d.PolicyWithoutRoom() == "" {
		t.Error("nobody is told that a map of policies is full")
	}
	server, ip := l.start(podObject("default", "server", app("db")))
	client, _ := l.start(podObject("default", "client", app("web")))
	l.serveTCP(server, ":80", "server")
	l.serveTCP(client, ":80", "client")
	clientIP := l.d.pods.byUID["client"].record.Address
	l.expect("while there is no room for peers",
		way{"to the isolated pod", client, "tcp4", ip.String() + ":80", false},
		way{"to the other", server, "tcp4", clientIP.String() + ":80", true})

	swap(func(p *policyMaps) { p.peers.m, p.subjects.m = peers, noSubjects })
	if _, _, err := l.d.Attach(context.Background(), "late", "default", "late"); !errors.Is(err, ErrFull) {
		t.Errorf("attach a pod that cannot be held: %v", err)
	}
	swap(func(p *policyMaps) { p.subjects.m = subjects })
	l.start(podObject("default", "late", app("web")))
	l.until("all is written", func() bool { return l.d.PolicyWithoutRoom() == "" })
}
