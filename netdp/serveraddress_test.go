package netdp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/wireguard"
)

// TestServerAddress: pods reach what the daemon serves by a service; while no
// daemon runs they hear nothing, and not that there is nobody.
func TestServerAddress(t *testing.T) {
	testServerAddress(newLab(t))
}

// A host's own addresses are not what encryption is for.
func TestEncryptionServerAddress(t *testing.T) {
	l := newLab(t)
	key, err := wireguard.NewPrivateKey()
	l.must(err)
	l.opts.WireGuardKey, l.opts.userWireGuard = key, true
	l.opts.CellPodCIDR = netip.MustParsePrefix("10.64.0.0/10")
	testServerAddress(l)
}

func testServerAddress(l *lab) {
	t := l.t
	d := l.open()
	client, podIP := l.pod(d, "client")
	addr, err := d.ServerAddress()
	l.must(err)
	if again, err := d.ServerAddress(); err != nil || again != addr {
		t.Errorf("the second time it is %s, %v", again, err)
	}
	for a, want := range map[netip.Addr]bool{addr: true, podIP: true, netip.MustParseAddr(labHostIP): true, netip.MustParseAddr("192.0.2.99"): false} {
		if d.IsLocal(a) != want {
			t.Errorf("%s is local: %v", a, !want)
		}
	}
	at := netip.AddrPortFrom(addr, 1053)
	l.serveTCP(l.host, at.String(), "daemon")
	l.must(d.SetService(Service{Key: "dns", Proto: TCP, Backends: []Backend{{Addr: at, Callers: OnlyInside}},
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 53}}}))
	l.must(d.SyncComplete())
	if got, want := l.ask(client, "tcp4", "10.0.0.10:53"), "daemon "+podIP.String()+" hello"; got != want {
		t.Errorf("a pod is answered %q, want %q", got, want)
	}
	l.must(d.SetHosts(nil))
	if got, want := l.ask(client, "tcp4", "10.0.0.10:53"), "daemon "+podIP.String()+" hello"; got != want {
		t.Errorf("with hosts set a pod is answered %q, want %q", got, want)
	}
	var nothing net.Conn
	silence := func(while string) {
		t.Helper()
		l.must(client.do(func() error {
			nothing, err = net.Dial("udp4", netip.AddrPortFrom(addr, 1054).String())
			return err
		}))
		defer nothing.Close()
		if _, err := call(nothing, "hello"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a datagram while %s: %v", while, err)
		}
		err := client.do(func() error {
			c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(addr, 1054).String(), 300*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err
		})
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("a connection while %s: %v", while, err)
		}
	}
	silence("nothing has the port, as after a kill")
	// Of other ports of the host pods are told.
	if _, err := dial(client, "tcp4", labHostIP+":1054"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port of the host: %v", err)
	}
	l.must(d.Close())
	silence("no daemon runs")
	d = l.open()
	if _, err := d.ServerAddress(); err != nil {
		t.Error(err)
	}
	if got := l.ask(client, "tcp4", "10.0.0.10:53"); got != "daemon "+podIP.String()+" hello" {
		t.Errorf("the next daemon answers %q", got)
	}
	l.must(d.Remove())
	l.must(l.host.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(lo, unix.AF_INET)
		for _, a := range addrs {
			if a.IP.Equal(net.IP(addr.AsSlice())) {
				t.Errorf("%s is left on loopback", addr)
			}
		}
		routes, err2 := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Type: unix.RTN_BLACKHOLE}, netlink.RT_FILTER_TYPE)
		if len(routes) > 0 {
			t.Errorf("routes are left: %v", routes)
		}
		return errors.Join(err, err2)
	}))
}
