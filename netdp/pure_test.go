package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestExtentsNeverOverlapAndJoinAgain(t *testing.T) {
	const size = 1 << 8
	rapid.Check(t, func(t *rapid.T) {
		e := newExtents(size)
		held := map[uint32]int{} // base → order
		owner := map[uint32]bool{}
		mark := func(base uint32, order int, used bool) {
			for i := base; i < base+1<<order; i++ {
				if owner[i] == used {
					t.Fatalf("slot %d is handed out twice", i)
				}
				owner[i] = used
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "release") {
				for base, order := range held {
					mark(base, order, false)
					e.release(base, order)
					delete(held, base)
					break
				}
				continue
			}
			order := rapid.IntRange(0, 6).Draw(t, "order")
			base, err := e.alloc(order)
			if errors.Is(err, ErrFull) {
				continue
			}
			mark(base, order, true)
			held[base] = order
		}
		// What another daemon would read back leaves the same room.
		again := newExtents(size)
		for base, order := range held {
			if err := again.take(base, order); err != nil {
				t.Fatal(err)
			}
		}
		for base, order := range held {
			again.release(base, order)
			e.release(base, order)
		}
		for _, x := range []*extents{e, again} {
			if base, err := x.alloc(orderOf(size)); err != nil || base != 0 {
				t.Fatalf("all was released, but the whole is not free: %v", err)
			}
		}
	})
}

func TestIDsAreReusedLast(t *testing.T) {
	s := newIDs(5)
	s.take(2)
	var got []uint32
	next := func() {
		id, err := s.alloc()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	next()
	s.release(1)
	next()
	next()
	next()
	if fmt.Sprint(got) != "[1 3 4 1]" {
		t.Errorf("got %v", got)
	}
	if _, err := s.alloc(); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	s.release(2) // adopted, now gone
	next()
	if got[4] != 2 {
		t.Errorf("got %v", got)
	}
}

func TestAddresses(t *testing.T) {
	now := time.Unix(1000, 0)
	a := newAddresses(netip.MustParsePrefix("10.64.7.0/29"))
	var got []string
	for range 6 {
		addr, err := a.alloc(now)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, addr.String())
	}
	if fmt.Sprint(got) != "[10.64.7.1 10.64.7.2 10.64.7.3 10.64.7.4 10.64.7.5 10.64.7.6]" {
		t.Errorf("got %v", got)
	}
	if _, err := a.alloc(now); err == nil {
		t.Error("an address was found in a full range")
	}
	free := func(addr string, at time.Time) { a.release(netip.MustParseAddr(addr), at) }
	free("10.64.7.5", now)
	free("10.64.7.2", now.Add(time.Second))
	free("10.64.7.9", now) // not of the range
	if addr, _ := a.alloc(now.Add(2 * time.Second)); addr.String() != "10.64.7.5" {
		t.Errorf("got %s, want the one that rested longest", addr)
	}
	if a.take(netip.MustParseAddr("10.64.7.5")) || !a.take(netip.MustParseAddr("10.64.7.2")) {
		t.Error("take does not know what is free")
	}
}

func TestArrangeMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.Uint32Range(1, 40), 0, 20, rapid.ID[uint32])
		slots := ids.Draw(t, "slots")
		want := ids.Draw(t, "want")
		members := make([]member, len(want))
		wanted := map[uint32]bool{}
		for i, id := range want {
			members[i] = member{id: id, state: backendActive}
			wanted[id] = true
		}
		got := arrange(slots, members)
		if len(got) != len(want) {
			t.Fatalf("%v for %v", got, want)
		}
		gone, moved := 0, 0
		for i, id := range slots {
			switch {
			case !wanted[id]:
				gone++
			case i < len(got) && got[i] != id, i >= len(got):
				moved++
			}
		}
		for _, id := range got {
			if !wanted[id] {
				t.Fatalf("%d is no backend", id)
			}
			delete(wanted, id)
		}
		if moved > gone {
			t.Fatalf("%d backends moved though %d left: %v to %v", moved, gone, slots, got)
		}
	})
}

func TestMaglevTable(t *testing.T) {
	names := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprintf("10.64.%d.%d:8080", i/250, i%250+1)
		}
		return out
	}
	for _, n := range []int{1, 2, 3, 10, 40, 160} {
		size := maglevSize(n)
		all := names(n)
		before := maglevTable(all, 7, size)
		counts := make([]int, n)
		for _, b := range before {
			counts[b]++
		}
		for i, c := range counts {
			if share := float64(c) * float64(n) / float64(size); share < 0.9 || share > 1.1 {
				t.Errorf("%d backends: backend %d has %.2f of its share", n, i, share)
			}
		}
		if n == 1 {
			continue
		}
		moved := 0
		for i, b := range maglevTable(all[:n-1], 7, size) {
			if before[i] != n-1 && b != before[i] {
				moved++
			}
		}
		if extra := float64(moved) / float64(size); extra > 0.05 {
			t.Errorf("%d backends: losing one moves %.1f%% of the flows of others", n, extra*100)
		}
	}
}

func TestWireFormat(t *testing.T) {
	if got := wirePort(wirePort(0x1234)); got != 0x1234 {
		t.Errorf("port became %x", got)
	}
	for _, s := range []string{"10.1.2.3", "fd00::1"} {
		if a := netip.MustParseAddr(s); addrFromWire(wireAddr(a)) != a {
			t.Errorf("%s became %s", a, addrFromWire(wireAddr(a)))
		}
	}
}

// TestUnfinishedFilesGo: those of a daemon that was killed while it wrote.
func TestUnfinishedFilesGo(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		r, err := openRecords(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{filepath.Join(dir, ".new-1"), filepath.Join(r.Dir, ".new-2")} {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r, err := openRecords(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, r.Dir} {
		if left, err := filepath.Glob(filepath.Join(d, ".new-*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v (%v)", left, err)
		}
	}
}
