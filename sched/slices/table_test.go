package slices

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/sharding"

	"shoal/gossip/rendezvous"
)

// TestTableByDifferences: whatever comes and goes, the table is the one made from
// nothing.
func TestTableByDifferences(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var kept table
	for round := range 60 {
		var peers []string
		for i := range 40 {
			if random.IntN(4) > 0 {
				peers = append(peers, fmt.Sprintf("node-%d", i))
			}
		}
		if round%20 == 19 {
			peers = nil
		}
		random.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
		kept.set(peers)
		for i := range Count {
			if want := rendezvous.First(Name(i), peers); kept.leaders[i] != want {
				t.Fatalf("round %d: %s is led by %q, want %q", round, Name(i), kept.leaders[i], want)
			}
		}
	}
}

// TestEven: five peers and fifty share the slices within what chance gives.
func TestEven(t *testing.T) {
	for _, n := range []int{5, 50} {
		var peers []string
		for i := range n {
			peers = append(peers, fmt.Sprintf("host-%d", i))
		}
		var kept table
		kept.set(peers)
		all := 0
		for _, p := range peers {
			led := kept.led(p)
			all += led.Len()
			if even := Count / n; led.Len() > 3*even+3 {
				t.Errorf("%s of %d leads %d slices, even were %d", p, n, led.Len(), even)
			}
			if got := slices.Collect(led.Each()); len(got) != led.Len() {
				t.Errorf("Each gives %d of %d", len(got), led.Len())
			}
		}
		if all != Count {
			t.Errorf("%d slices are led, want %d", all, Count)
		}
	}
}

// TestOfIsTheShardsHash: slice i is what shardRange calls the i-th part.
func TestOfIsTheShardsHash(t *testing.T) {
	for _, key := range []string{"", "default", "kube-system", "0b1f6a52-1c51-4a53-9d3c-0f8f3a7a1c11"} {
		if got, want := fmt.Sprintf("%02x", Of(key)), sharding.HashField(key)[:2]; got != want {
			t.Errorf("slice of %q is %s, want %s", key, got, want)
		}
	}
}

func TestStamp(t *testing.T) {
	s := Stamp{Slice: 17, Epoch: 42, Leader: "node-a"}
	if got, err := ParseStamp(s.String()); err != nil || got != s {
		t.Errorf("%q reads as %v, %v", s, got, err)
	}
	for _, bad := range []string{"", "17", "17/42", "256/1/a", "-1/1/a", "1/0/a", "x/1/a"} {
		if got, err := ParseStamp(bad); err == nil {
			t.Errorf("%q reads as %v", bad, got)
		}
	}
}
