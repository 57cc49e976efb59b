package claims

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
)

// shelf is a store in memory that two ledgers can share, as two peers would.
type shelf struct {
	mu   sync.Mutex
	data map[string][]byte
	fail error
}

func (s *shelf) CreateRecord(_ context.Context, key string, value []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return false, s.fail
	}
	if _, ok := s.data[key]; ok {
		return false, nil
	}
	s.data[key] = value
	return true, nil
}

func (s *shelf) DeleteRecord(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.data, key)
	return s.fail
}

func (s *shelf) ListRecords(_ context.Context, prefix string) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string][]byte{}
	for key, value := range s.data {
		if strings.HasPrefix(key, prefix) {
			found[key] = value
		}
	}
	return found, s.fail
}

func (s *shelf) ReplaceRecord(_ context.Context, key string, old, value []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.data[key]; !ok || !bytes.Equal(now, old) {
		return false, s.fail
	}
	s.data[key] = value
	return true, s.fail
}

func (s *shelf) FollowRecords(context.Context, string, func(map[string][]byte), func(string, []byte)) error {
	return errors.New("a shelf cannot be followed: api/ tests that on a store")
}

func open(t *testing.T, s *shelf, holder string, size, reserved int) *Ledger {
	t.Helper()
	l, err := Open(context.Background(), s, "/claims/x/", holder, size, reserved)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEveryNumberIsHandedOutOnceThenTheRangeIsFull(t *testing.T) {
	s := &shelf{data: map[string][]byte{}}
	l := open(t, s, "host1", 100, 20)
	seen := map[int]bool{}
	for i := range 100 {
		n, err := l.TakeNext()
		if err != nil {
			t.Fatal(err)
		}
		if seen[n] {
			t.Fatalf("%d was handed out twice", n)
		}
		if i < 80 && n < 20 {
			t.Fatalf("draw %d used reserved number %d while others were free", i, n)
		}
		seen[n] = true
	}
	if _, err := l.TakeNext(); !errors.Is(err, ErrFull) {
		t.Fatalf("a full range answered %v", err)
	}
}

func TestTwoPeersOnOneStoreNeverShareANumber(t *testing.T) {
	s := &shelf{data: map[string][]byte{}}
	peers := []*Ledger{open(t, s, "host1", 64, 0), open(t, s, "host2", 64, 0)}
	seen := map[int]bool{}
	for i := range 64 {
		n, err := peers[i%2].TakeNext()
		if err != nil {
			t.Fatal(err)
		}
		if seen[n] {
			t.Fatalf("%d was handed out by both", n)
		}
		seen[n] = true
	}
}

func TestClaimsOutliveTheLedger(t *testing.T) {
	s := &shelf{data: map[string][]byte{}}
	n, err := open(t, s, "host1", 100, 0).TakeNext()
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, s, "host1", 100, 0)
	if mine := again.Mine(); len(mine) != 1 || mine[0] != n {
		t.Fatalf("host1 holds %v, want [%d]", mine, n)
	}
	if other := open(t, s, "host2", 100, 0).Mine(); len(other) != 0 {
		t.Fatalf("host2 holds %v, want none", other)
	}
	if taken, _ := again.Take(n); taken {
		t.Fatalf("%d was handed out again after a restart", n)
	}
	if err := again.Free(n); err != nil {
		t.Fatal(err)
	}
	if taken, _ := again.Take(n); !taken {
		t.Fatalf("%d could not be taken after it was released", n)
	}
}

func TestAStoreThatRefusesLeavesNothingClaimed(t *testing.T) {
	s := &shelf{data: map[string][]byte{}}
	l := open(t, s, "host1", 100, 0)
	s.fail = errors.New("disk is full")
	if _, err := l.TakeNext(); err == nil {
		t.Fatal("a refused write was answered with a number")
	}
	s.fail = nil
	if left := l.Left(); left != 100 {
		t.Fatalf("%d numbers left of 100", left)
	}
}

func TestRepairReleasesAfterTwoLooksAndClaimsWhatIsInUse(t *testing.T) {
	s := &shelf{data: map[string][]byte{}}
	l := open(t, s, "host1", 100, 0)
	for _, n := range []int{1, 2} {
		if _, err := l.Take(n); err != nil {
			t.Fatal(err)
		}
	}
	inUse := map[int]bool{2: true, 3: true}
	idle, err := l.Repair(inUse, nil)
	if err != nil || !l.Has(1) {
		t.Fatalf("first look released a claim (err %v)", err)
	}
	if _, err := l.Repair(inUse, idle); err != nil {
		t.Fatal(err)
	}
	if l.Has(1) || !l.Has(2) || !l.Has(3) {
		t.Fatalf("after repair: 1=%v 2=%v 3=%v, want false true true", l.Has(1), l.Has(2), l.Has(3))
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		cidr, first string
		outside     []string
		family      api.IPFamily
	}{
		{"10.0.0.0/24", "10.0.0.1", []string{"10.0.0.0", "10.0.0.255", "10.0.1.1", "::1"}, api.IPv4Protocol},
		{"fd00:1::100/120", "fd00:1::101", []string{"fd00:1::100", "fd00:1::1ff", "fd00:1::201", "fd00:2::101", "10.0.0.1"}, api.IPv6Protocol},
	} {
		cidr := netip.MustParsePrefix(c.cidr)
		size, err := RangeSize(cidr)
		if err != nil || size != 254 {
			t.Fatalf("size %d, err %v", size, err)
		}
		a := NewAddresses(open(t, &shelf{data: map[string][]byte{}}, "host1", size, ReservedAddresses(size)), cidr)
		var notIn *ipallocator.ErrNotInRange
		for _, bad := range c.outside {
			if err := a.Allocate(net.ParseIP(bad)); !errors.As(err, &notIn) {
				t.Errorf("%s: %v", bad, err)
			}
		}
		first := net.ParseIP(c.first)
		if err := a.DryRun().Allocate(first); err != nil || a.Has(first) {
			t.Errorf("dry run: err %v, or it claimed", err)
		}
		if err := a.Allocate(first); err != nil {
			t.Fatal(err)
		}
		if err := a.Allocate(first); !errors.Is(err, ipallocator.ErrAllocated) {
			t.Errorf("second claim of one address: %v", err)
		}
		ip, err := a.AllocateNext()
		if err != nil || !cidr.Contains(netip.MustParseAddr(ip.String())) {
			t.Fatalf("%v, %v", ip, err)
		}
		if whole := a.CIDR(); a.IPFamily() != c.family || whole.String() != c.cidr {
			t.Errorf("%s is %s of %s", c.cidr, whole.String(), a.IPFamily())
		}
	}
	for _, bad := range []string{"10.0.0.0/8", "10.0.0.0/30", "fd00::/64", "fd00::/126"} {
		if _, err := RangeSize(netip.MustParsePrefix(bad)); err == nil {
			t.Errorf("range %s was accepted", bad)
		}
	}
}
