package netdp

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	networkingv1 "k8s.io/api/networking/v1"

	"shoal/netdp/policy/tables"
)

// A pod calls its node by whatever address the node has, also a new one; not
// what is no longer the node's.
func TestPolicyKnowsTheNodesAddresses(t *testing.T) {
	const early, late = "198.51.100.5", "198.51.100.6"
	l := newLab(t)
	onLoopback := func(addr string, change func(netlink.Link, *netlink.Addr) error) {
		t.Helper()
		l.must(l.host.do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return change(lo, &netlink.Addr{IPNet: hostNet(netip.MustParseAddr(addr))})
		}))
	}
	onLoopback(early, netlink.AddrAdd)
	p := policyLabOn(l)
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := p.d.WatchLinks(ctx, func() {}); err != nil {
			t.Error(err)
		}
	})
	defer watching.Wait()
	defer cancel()
	client, _ := p.start(podObject("default", "client", app("web")))
	p.serveTCP(l.host, ":80", "host")
	p.serveTCP(l.outside, ":80", "outside")
	p.apply(netpol("deny", "web", networkingv1.PolicyTypeEgress))
	p.expect("no egress",
		way{"outside", client, "tcp4", labOutsideIP + ":80", false},
		way{"the node", client, "tcp4", labHostIP + ":80", true},
		way{"another address of the node", client, "tcp4", early + ":80", true})
	onLoopback(late, netlink.AddrAdd)
	p.expect("the node has a new address", way{"by it", client, "tcp4", late + ":80", true})
	onLoopback(late, netlink.AddrDel)
	p.until("the address is no longer the node's", func() bool {
		p.d.policyMu.Lock()
		defer p.d.policyMu.Unlock()
		_, have := p.d.policy.peers.have[netip.MustParseAddr(late)]
		return !have
	})
}

// A permission that was taken away is, though connections could not be told at
// first.
func TestRevisionIsMovedLater(t *testing.T) {
	p := newIsolatedPod(t)
	p.want("a call", p.sends(5000, 443, flagSYN), true)
	swap := func(m *ebpf.Map) (was *ebpf.Map) {
		p.d.policyMu.Lock()
		defer p.d.policyMu.Unlock()
		was, p.d.policy.revision = p.d.policy.revision, m
		return was
	}
	broken, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	p.must(err)
	defer broken.Close()
	revision := swap(broken)
	p.table.Rules.Peers[tables.RuleKey{Set: 1002, Peer: 100}] = tables.NoProfile
	if err := p.d.SetPolicy(p.table); err == nil {
		t.Fatal("a revision that cannot be written is no error")
	}
	swap(revision)
	p.must(p.d.SetPolicy(tables.Change{}))
	p.want("data on what is allowed no longer", p.sends(5000, 443, flagACK), false)
}

// The sockets of a pod that becomes isolated are listed while other pods come:
// the race detector finds what is read of one while it is written.
func TestSocketsAreListedWhilePodsCome(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	server, ip := l.pod(d, "server")
	l.serveTCP(server, ":80", "server")
	c, err := dial(l.outside, "tcp4", ip.String()+":80")
	l.must(err)
	defer c.Close()
	l.until("accepted", func() bool { return answered(c) })
	var coming sync.WaitGroup
	come := make(chan struct{})
	coming.Go(func() {
		defer close(come)
		for _, name := range []string{"a", "b", "c", "d"} {
			if _, _, err := d.Attach(context.Background(), name, "default", name); err != nil {
				t.Error(err)
			}
		}
	})
	for more := true; more; {
		select {
		case <-come:
			more = false
		default:
		}
		open := d.findOpen(map[netip.Addr]tables.Subject{ip: {Ingress: 77}})
		if len(open) != 1 || open[0].err != nil || len(open[0].conns) != 1 || open[0].conns[0].direction != policyIngress {
			t.Fatalf("found %+v", open)
		}
	}
	coming.Wait()
}
