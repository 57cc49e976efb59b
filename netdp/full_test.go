package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Maps that are full keep out what is new, leave alone what is there, say so,
// and take it in as soon as there is room.
func TestFullMaps(t *testing.T) {
	small := MapLimits{Services: 8, Frontends: 8, Backends: 8}
	var addrs []netip.AddrPort
	for i := range 16 {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 64, 7, byte(100 + i)}), 80))
	}
	backends := func(n int) (out []Backend) {
		for _, a := range addrs[:n] {
			out = append(out, Backend{Addr: a})
		}
		return out
	}
	face := func(i int) Frontend { return Frontend{Addr: netip.AddrFrom4([4]byte{10, 0, 9, byte(i)}), Port: 80} }
	for _, c := range []struct {
		name string
		// limit is changed from enough for everything.
		limit func(*MapLimits)
		// filler takes the room of what comes.
		filler, comes Service
	}{
		{"services", func(l *MapLimits) { l.Services = small.Services },
			Service{Frontends: []Frontend{face(1)}}, Service{Frontends: []Frontend{face(2)}}},
		{"frontends", func(l *MapLimits) { l.Frontends = small.Frontends },
			Service{Frontends: []Frontend{face(1), face(2), face(3), face(4), face(5)}},
			Service{Frontends: []Frontend{face(11), face(12), face(13)}}},
		{"backends", func(l *MapLimits) { l.Backends = small.Backends },
			Service{Frontends: []Frontend{face(1)}, Backends: backends(6)}, Service{Frontends: []Frontend{face(2)}, Backends: backends(3)}},
		{"slots", func(l *MapLimits) { l.Slots = 16 },
			Service{Frontends: []Frontend{face(1)}, Backends: backends(8)}, Service{Frontends: []Frontend{face(2)}, Backends: backends(5)}},
		{"maglev chunks", func(l *MapLimits) { l.MaglevChunks = 9 },
			Service{Frontends: []Frontend{{Port: 30080}}, Backends: backends(8)},
			Service{Frontends: []Frontend{{Port: 30081}}, Backends: backends(3)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.opts.Limits = MapLimits{Services: 64, Frontends: 64, Backends: 64, Slots: 64, MaglevChunks: 64}
			c.limit(&l.opts.Limits)
			d := l.openUntilEnd()
			server, serverIP := l.pod(d, "server")
			client, _ := l.pod(d, "client")
			l.serveTCP(server, ":80", "server")
			open := Service{Key: "default/open:80/TCP", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}},
				Backends: []Backend{{Addr: netip.AddrPortFrom(serverIP, 80)}}}
			l.must(d.SetService(open))
			conn, err := dial(client, "tcp4", "10.0.0.10:80")
			l.must(err)
			defer conn.Close()
			fillers, fillerFace := 1, c.filler.Frontends[0]
			if c.name == "services" {
				fillers = 6 // numbers are from 1 to 7, and open has one
			}
			for i := range fillers {
				c.filler.Key, c.filler.Proto = fmt.Sprintf("default/filler%d:80/TCP", i), TCP
				if i > 0 {
					c.filler.Frontends = []Frontend{face(20 + i)}
				}
				l.must(d.SetService(c.filler))
			}
			before := kernelServices(t, d)
			c.comes.Key, c.comes.Proto = "default/comes:80/TCP", TCP
			if err := d.SetService(c.comes); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), c.comes.Key) {
				t.Fatalf("set a service without room: %v", err)
			}
			if got := d.WithoutRoom(); !slices.Equal(got, []string{c.comes.Key}) {
				t.Errorf("without room: %q", got)
			}
			metric := "# HELP shoal_datapath_services_without_room Ports of services that are not in the kernel's maps because these are full. An alarm if not 0.\n" +
				"# TYPE shoal_datapath_services_without_room gauge\nshoal_datapath_services_without_room 1\n"
			if err := testutil.CollectAndCompare(d.Metrics(), strings.NewReader(metric), "shoal_datapath_services_without_room"); err != nil {
				t.Error(err)
			}
			after := kernelServices(t, d)
			for _, line := range before {
				if !slices.Contains(after, line) {
					t.Errorf("%s is not as it was", line)
				}
			}
			if _, err := call(conn, "hello"); err != nil {
				t.Errorf("the open connection: %v", err)
			}
			l.ask(client, "tcp4", "10.0.0.10:80")

			l.must(d.DeleteService("default/filler0:80/TCP"))
			l.must(d.SetService(c.comes))
			if got := d.WithoutRoom(); len(got) != 0 {
				t.Errorf("with room again: %q", got)
			}
			l.must(d.DeleteService(c.comes.Key))
			c.filler.Frontends[0] = fillerFace
			for range 4 { // nothing was lost of the room by the failure
				c.filler.Key = "default/again:80/TCP"
				l.must(d.SetService(c.filler))
				l.must(d.DeleteService(c.filler.Key))
				l.must(d.SetService(c.comes))
				l.must(d.DeleteService(c.comes.Key))
			}
		})
	}
}

// A service for whose growth there is no room loses the backends that left, and
// gains as many as fit; one that changes its addresses at the limit loses the old.
func TestChangesWithoutRoom(t *testing.T) {
	l := newLab(t)
	l.opts.Limits = MapLimits{Services: 64, Frontends: 4, Backends: 64, Slots: 16, MaglevChunks: 64}
	d := l.openUntilEnd()
	backend := func(i int) Backend {
		return Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 64, 7, byte(100 + i)}), 80)}
	}
	face := func(i int) Frontend { return Frontend{Addr: netip.AddrFrom4([4]byte{10, 0, 9, byte(i)}), Port: 80} }
	grows := Service{Key: "default/grows:80/TCP", Proto: TCP, Frontends: []Frontend{face(1)}, Backends: []Backend{backend(0), backend(1)}}
	l.must(d.SetService(grows))
	filler := Service{Key: "default/filler:80/TCP", Proto: TCP, Frontends: []Frontend{face(2), face(3)}}
	for i := range 8 {
		filler.Backends = append(filler.Backends, backend(10+i))
	}
	l.must(d.SetService(filler))

	grows.Backends = []Backend{backend(1), backend(2), backend(3), backend(4), backend(5)}
	if err := d.SetService(grows); !errors.Is(err, ErrFull) {
		t.Fatalf("grown without room: %v", err)
	}
	got := strings.Join(kernelServices(t, d), "\n")
	if strings.Contains(got, "10.64.7.100") || !strings.Contains(got, "10.64.7.101") || !strings.Contains(got, "10.64.7.102") {
		t.Errorf("one backend left, one stayed, and there is room for another:\n%s", got)
	}
	filler.Frontends = []Frontend{face(5), face(6), face(7)}
	if err := d.SetService(filler); !errors.Is(err, ErrFull) {
		t.Fatalf("other addresses without room: %v", err)
	}
	if got := strings.Join(kernelServices(t, d), "\n"); strings.Contains(got, "10.0.9.2:") || strings.Contains(got, "10.0.9.3:") {
		t.Errorf("addresses that are no longer the service's:\n%s", got)
	}
	l.must(d.SetService(filler)) // what went made room
	l.must(d.DeleteService(filler.Key))
	l.must(d.SetService(grows))
	got = strings.Join(kernelServices(t, d), "\n")
	for i := 1; i <= 5; i++ {
		if !strings.Contains(got, fmt.Sprintf("10.64.7.%d", 100+i)) {
			t.Errorf("with room again:\n%s", got)
		}
	}
}
