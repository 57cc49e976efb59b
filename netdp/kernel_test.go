package netdp

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"shoal/bpf"
)

// kernelServices reads the maps as the programs do and prints one line for
// each address: who answers there.
func kernelServices(t testing.TB, d *Datapath) []string {
	t.Helper()
	var out []string
	m := d.table.maps
	err := readMap(m.frontends, func(key bpf.DatapathFrontendKey, fe bpf.DatapathFrontend) {
		addr := "node"
		if a := addrFromWire(key.Addr); a.IsValid() {
			addr = a.String()
		}
		line := fmt.Sprintf("%s %s:%d -> ", Proto(key.Proto), addr, wirePort(key.Port))
		out = append(out, line+strings.Join(kernelBackends(t, m, fe.Service), " "))
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func kernelBackends(t testing.TB, m serviceMaps, service uint32) []string {
	t.Helper()
	var s bpf.DatapathService
	if err := m.services.Lookup(service, &s); err != nil {
		t.Fatal(err)
	}
	var out []string
	for i := range uint32(s.Extent) {
		var id uint32
		var b bpf.DatapathBackend
		if err := m.slots.Lookup(uint32(s.Extent>>32)+i, &id); err != nil {
			t.Fatal(err)
		}
		if err := m.backends.Lookup(id, &b); err != nil {
			t.Fatal(err)
		}
		if b.Service != service || b.State&backendInside == 0 {
			t.Errorf("slot %d of service %d holds backend %d of service %d in state %d", i, service, id, b.Service, b.State)
		}
		out = append(out, netip.AddrPortFrom(addrFromWire(b.Addr), wirePort(b.Port)).String())
	}
	slices.Sort(out)
	return out
}

// kernelEntries counts entries that are not empty.
func kernelEntries(t testing.TB, d *Datapath) (services, backends, draining int) {
	t.Helper()
	err := readMap(d.table.maps.backends, func(_ uint32, b bpf.DatapathBackend) {
		switch {
		case b.State&backendActive != 0:
			backends++
		case b.State == backendDraining:
			draining++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	err = readMap(d.table.maps.services, func(_ uint32, s bpf.DatapathService) {
		if uint32(s.Extent) > 0 {
			services++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return services, backends, draining
}

// model is what the maps should hold, kept as simply as can be.
type model map[string]Service

func (m model) lines() (lines []string, backends, draining int) {
	for _, s := range m {
		var active []string
		for _, b := range s.Backends {
			if b.Draining {
				draining++
			} else {
				backends++
				if b.Callers != OnlyOutside {
					active = append(active, b.Addr.String())
				}
			}
		}
		slices.Sort(active)
		for _, f := range s.Frontends {
			addr := "node"
			if f.Addr.IsValid() {
				addr = f.Addr.String()
			}
			lines = append(lines, fmt.Sprintf("%s %s:%d -> %s", s.Proto, addr, f.Port, strings.Join(active, " ")))
		}
	}
	slices.Sort(lines)
	return lines, backends, draining
}

// TestRandomChanges changes services at random, restarts the daemon now and
// then, and compares the kernel's maps with a model, entry by entry.
func TestRandomChanges(t *testing.T) {
	const rounds, changes = 20, 60
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	l := newLab(t)
	d := l.open()
	defer func() { l.must(d.Remove()) }()
	want := model{}
	for round := range rounds {
		for range changes {
			s := randomService(rng)
			if rng.IntN(5) == 0 {
				l.must(d.DeleteService(s.Key))
				delete(want, s.Key)
				continue
			}
			l.must(d.SetService(s))
			want[s.Key] = s
		}
		if rng.IntN(3) == 0 {
			l.must(d.Close())
			d = l.open()
			for key, s := range want {
				if rng.IntN(10) == 0 {
					delete(want, key) // deleted while nobody watched
					continue
				}
				l.must(d.SetService(s))
			}
			l.must(d.SyncComplete())
		}
		compare(t, d, want, round)
	}
}

// usedSlots counts slots that are not empty.
func usedSlots(t testing.TB, d *Datapath) (used int) {
	t.Helper()
	if err := readMap(d.table.maps.slots, func(_, id uint32) {
		if id != 0 {
			used++
		}
	}); err != nil {
		t.Fatal(err)
	}
	return used
}

// each is one service for each address, as KernelServices lists them.
func (m model) each(t *testing.T) []Service {
	t.Helper()
	var out []Service
	for _, s := range m {
		s, err := s.normalized()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Frontends {
			one := s
			one.Frontends = []Frontend{f}
			one.LocalOutside = s.LocalOutside && f.outside()
			if len(s.Sources) == 0 {
				one.Sources = nil
			}
			one.Backends = nil
			for _, b := range s.Backends {
				if b.Draining {
					b.Callers = AnyCaller
				}
				one.Backends = append(one.Backends, b)
			}
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b Service) int {
		fa, fb := a.Frontends[0], b.Frontends[0]
		return cmp.Or(fa.Addr.Compare(fb.Addr), cmp.Compare(fa.Port, fb.Port), cmp.Compare(a.Proto, b.Proto))
	})
	return out
}

// checkMaglev compares whom the tables lead to with the backends for callers
// outside.
func checkMaglev(t *testing.T, d *Datapath, want model, round int) {
	t.Helper()
	got := map[uint32]map[uint32]bool{}
	if err := readMap(d.table.maps.maglev, func(key bpf.DatapathMaglevKey, chunk bpf.DatapathMaglevChunk) {
		if got[key.Service] == nil {
			got[key.Service] = map[uint32]bool{}
		}
		for _, id := range chunk.Backend {
			if id != 0 { // the last chunk is longer than the table
				got[key.Service][id] = true
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	tables := 0
	for key, s := range want {
		backends := map[netip.AddrPort]bool{}
		if slices.ContainsFunc(s.Frontends, Frontend.outside) {
			for _, b := range s.Backends {
				if !b.Draining && b.Callers != OnlyInside {
					backends[b.Addr] = true
				}
			}
		}
		if len(backends) > 0 {
			tables++
		}
		ids := got[d.table.byKey[key].id]
		if len(ids) != len(backends) {
			t.Fatalf("round %d: the table of %s has %d backends, want %d", round, key, len(ids), len(backends))
		}
		for id := range ids {
			var b bpf.DatapathBackend
			if err := d.table.maps.backends.Lookup(id, &b); err != nil {
				t.Fatal(err)
			}
			if addr := netip.AddrPortFrom(addrFromWire(b.Addr), wirePort(b.Port)); !backends[addr] {
				t.Fatalf("round %d: the table of %s leads to %s", round, key, addr)
			}
		}
	}
	if len(got) != tables {
		t.Fatalf("round %d: %d tables, want %d", round, len(got), tables)
	}
}

func compare(t *testing.T, d *Datapath, want model, round int) {
	t.Helper()
	lines, active, draining := want.lines()
	if got := kernelServices(t, d); !slices.Equal(got, lines) {
		t.Fatalf("round %d: kernel has\n%s\nwant\n%s", round, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
	have, err := d.KernelServices()
	if err != nil {
		t.Fatal(err)
	}
	if expect := want.each(t); !reflect.DeepEqual(have, expect) {
		for i := range max(len(have), len(expect)) {
			if i >= len(have) || i >= len(expect) || !reflect.DeepEqual(have[i], expect[i]) {
				t.Fatalf("round %d: kernel has\n%+v\nwant\n%+v", round, have[min(i, len(have)):], expect[min(i, len(expect)):])
			}
		}
	}
	checkMaglev(t, d, want, round)
	_, gotActive, gotDraining := kernelEntries(t, d)
	if gotActive != active || gotDraining != draining {
		t.Fatalf("round %d: kernel has %d backends and %d draining, want %d and %d", round, gotActive, gotDraining, active, draining)
	}
	inside := 0
	for _, s := range want {
		for _, b := range s.Backends {
			if !b.Draining && b.Callers != OnlyOutside {
				inside++
			}
		}
	}
	if used := usedSlots(t, d); used != inside {
		t.Fatalf("round %d: %d slots are used, want one for each of %d active backends", round, used, inside)
	}
}

// randomService is one of 40, each with an address of its own, and up to 40
// backends out of 60.
func randomService(rng *rand.Rand) Service {
	n := rng.IntN(40)
	s := Service{Key: fmt.Sprint("service-", n), Proto: TCP}
	if n%2 == 1 {
		s.Proto = UDP
	}
	s.Frontends = []Frontend{{Addr: netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}), Port: 80}}
	if rng.IntN(2) == 0 {
		s.Frontends = append(s.Frontends, Frontend{Port: uint16(30000 + n)})
	}
	if rng.IntN(2) == 0 {
		s.Frontends = append(s.Frontends, Frontend{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), Port: 80,
			Outside: true, Filtered: rng.IntN(2) == 0})
	}
	s.LocalOutside = rng.IntN(2) == 0
	s.AffinitySeconds = uint32(60 * rng.IntN(3))
	for _, i := range rng.Perm(6)[:rng.IntN(4)] {
		s.Sources = append(s.Sources, []netip.Prefix{
			netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.18.0.2/32"),
			netip.MustParsePrefix("::/0"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2001:db8::1/128"),
		}[i])
	}
	count := rng.IntN(1 + rng.IntN(40))
	for _, i := range rng.Perm(60)[:count] {
		s.Backends = append(s.Backends, Backend{
			Addr:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 64, 7, byte(i)}), 8080),
			Draining: rng.IntN(4) == 0,
			Callers:  Callers(rng.IntN(3)),
		})
	}
	return s
}
