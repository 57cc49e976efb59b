package rendezvous

import (
	"fmt"
	"slices"
	"testing"
)

// TestFirst: all agree whatever the order, and who leaves moves only its share.
func TestFirst(t *testing.T) {
	var peers []string
	for i := range 20 {
		peers = append(peers, fmt.Sprintf("node-%d", i))
	}
	led := map[string]int{}
	for work := range 256 {
		name := fmt.Sprint(work)
		leader := First(name, peers)
		led[leader]++
		turned := slices.Clone(peers)
		slices.Reverse(turned)
		if First(name, turned) != leader {
			t.Fatal("the order of peers matters")
		}
		without := slices.DeleteFunc(slices.Clone(peers), func(p string) bool { return p == "node-3" })
		if now := First(name, without); leader != "node-3" && now != leader {
			t.Errorf("work %s moved from %s to %s though node-3 left", name, leader, now)
		}
	}
	for _, p := range peers {
		if led[p] == 0 || led[p] > 40 {
			t.Errorf("%s leads %d of 256", p, led[p])
		}
	}
	if First("x", nil) != "" {
		t.Error("nobody leads among nobody")
	}
}
