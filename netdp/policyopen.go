package netdp

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/policy/tables"
)

// Directions of bpf/policy.h.
const (
	policyIngress = 0
	policyEgress  = 1
)

// openConn is a connection that a pod has open.
type openConn struct {
	key       bpf.DatapathPolicyConnKey
	direction uint8
}

// openPod is what a pod that is isolated only now has open.
type openPod struct {
	addr  netip.Addr
	conns []openConn
	err   error
}

// dumpsAtOnce is how many pods are asked for their sockets at a time: a policy may
// isolate all of a host's at once.
const dumpsAtOnce = 8

// findOpen lists the connections of pods that are isolated only now: nobody has
// watched who called whom. It holds no lock while it asks, as a pod may have many
// sockets. What is opened until the change is written goes on where either
// direction allows it (bpf/policy.h).
func (d *Datapath) findOpen(subjects map[netip.Addr]tables.Subject) []openPod {
	var addrs []netip.Addr
	d.policyMu.Lock()
	for addr, s := range subjects {
		if _, isolated := d.policy.subjects.have[addr]; !isolated && s != (tables.Subject{}) && s != tables.Held {
			addrs = append(addrs, addr)
		}
	}
	d.policyMu.Unlock()
	return d.openOf(addrs)
}

// openOf lists the connections of pods of this host.
func (d *Datapath) openOf(addrs []netip.Addr) []openPod {
	out := make([]openPod, len(addrs))
	var asking sync.WaitGroup
	turns := make(chan struct{}, dumpsAtOnce)
	for i, addr := range addrs {
		out[i].addr = addr
		path, ok := d.networkOf(addr)
		if !ok {
			continue
		}
		turns <- struct{}{}
		asking.Go(func() {
			out[i].conns, out[i].err = openConns(path, addr)
			<-turns
		})
	}
	asking.Wait()
	return out
}

// noteOpen tells the kernel of open connections; policyMu is held. Each is then judged by the policy
// of its direction at its next packet, and answers are not taken for calls.
func (d *Datapath) noteOpen(pods []openPod) {
	conns := d.maps[bpf.DatapathMapPolicyConns]
	for _, pod := range pods {
		err := pod.err
		now := bpf.DatapathPolicyConn{SeenSeconds: uptimeSeconds(), Revision: d.policy.current}
		for _, c := range pod.conns {
			now.Direction = c.direction
			if putErr := conns.Put(&c.key, &now); putErr != nil {
				err = fmt.Errorf("write connection: %w", putErr)
			}
		}
		if err != nil {
			d.log.Warn("find open connections of a pod that is isolated now; its answers on them may be refused", "pod", pod.addr, "error", err)
		}
	}
}

// networkOf is the path of the namespace of a pod that is here.
func (d *Datapath) networkOf(addr netip.Addr) (string, bool) {
	d.pods.mu.Lock()
	defer d.pods.mu.Unlock()
	for uid, entry := range d.pods.byUID {
		if slices.Contains(entry.record.addresses(), addr) {
			return d.pods.records.netns(uid), true
		}
	}
	return "", false
}

// openConns lists connected sockets of a namespace. One whose port another one
// listens on was called; all others call.
func openConns(path string, addr netip.Addr) (out []openConn, err error) {
	ns, err := openNamespace(path)
	if err != nil {
		return nil, err
	}
	defer ns.close()
	err = ns.do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			tcp, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return fmt.Errorf("list TCP sockets (CONFIG_INET_DIAG): %w", err)
			}
			out = append(out, connsOf(tcp, TCP, addr)...)
			udp, err := netlink.SocketDiagUDP(family)
			if err != nil {
				return fmt.Errorf("list UDP sockets (CONFIG_INET_UDP_DIAG): %w", err)
			}
			out = append(out, connsOf(udp, UDP, addr)...)
		}
		return nil
	})
	return out, err
}

func connsOf(sockets []*netlink.Socket, proto Proto, addr netip.Addr) (out []openConn) {
	listening := map[uint16]bool{}
	for _, s := range sockets {
		if s.State == netlink.TCP_LISTEN {
			listening[s.ID.SourcePort] = true
		}
	}
	for _, s := range sockets {
		local, ok1 := addrOf(s.ID.Source)
		peer, ok2 := addrOf(s.ID.Destination)
		if !ok1 || !ok2 || local != addr || s.ID.DestinationPort == 0 {
			continue
		}
		c := openConn{direction: policyEgress, key: bpf.DatapathPolicyConnKey{
			Pod: wireAddr(local), Peer: wireAddr(peer),
			PodPort: wirePort(s.ID.SourcePort), PeerPort: wirePort(s.ID.DestinationPort), Proto: uint8(proto),
		}}
		if listening[s.ID.SourcePort] {
			c.direction = policyIngress
		}
		out = append(out, c)
	}
	return out
}

func addrOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

// uptimeSeconds is the clock that the programs read.
func uptimeSeconds() uint32 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0 // never: the clock is there
	}
	return uint32(t.Sec)
}
