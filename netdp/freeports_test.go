package netdp

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// An earlier daemon may have left a service at the ports of the next one, whose
// binds its programs refuse.
func TestFreePorts(t *testing.T) {
	l := newLab(t)
	d := l.open()
	host := netip.MustParseAddr(labHostIP)
	const left, kept = 6443, 6444
	l.must(d.SetService(Service{Key: "web", Proto: TCP, Frontends: []Frontend{
		{Addr: host, Port: left, Outside: true}, {Addr: host, Port: kept, Outside: true},
		{Addr: netip.MustParseAddr("127.0.0.1"), Port: left},
		{Addr: netip.MustParseAddr("203.0.113.7"), Port: left, Outside: true}, {Port: 30443},
	}}))
	l.must(d.Close())
	bind := func(port int) (err error) {
		l.must(l.host.do(func() error {
			fd, e := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if e != nil {
				return e
			}
			defer unix.Close(fd)
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
			return nil
		}))
		return err
	}
	if err := bind(left); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("a service of an earlier daemon does not hold its port: %v", err)
	}
	for range 2 {
		l.must(FreePorts(l.opts.BPFFSDir, func(p Proto, port uint16) bool { return p == TCP && (port == left || port == 30443) }))
	}
	for _, port := range []int{left, 30443} {
		if err := bind(port); err != nil {
			t.Errorf("bind port %d: %v", port, err)
		}
	}
	if err := bind(kept); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("another port of the service is free: %v", err)
	}
	d = l.openUntilEnd()
	have, err := d.KernelServices()
	l.must(err)
	var got []string
	for _, s := range have {
		got = append(got, s.Frontends[0].String())
	}
	if len(got) != 2 || got[0] != labHostIP+":6444" || got[1] != "203.0.113.7:6443" {
		t.Errorf("the next daemon finds %q", got)
	}
	l.must(FreePorts(t.TempDir(), func(Proto, uint16) bool { return true }))
}
