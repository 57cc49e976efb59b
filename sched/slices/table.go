package slices

import (
	"fmt"
	"slices"

	"shoal/gossip/rendezvous"
)

// Name is a slice's name, "slice-017" for 17: of its record, and what peers are
// ranked by.
func Name(i int) string { return fmt.Sprintf("slice-%03d", i) }

// table is who leads each slice among some peers. It is kept by differences: of
// 5,000 peers, one that comes costs 256 comparisons and one that goes those of
// the slices it led, where a table from nothing costs a million hashes.
type table struct {
	peers   map[string]bool
	leaders [Count]string // empty without peers
}

// set makes the table one of these peers.
func (t *table) set(peers []string) {
	next := make(map[string]bool, len(peers))
	for _, p := range peers {
		next[p] = true
	}
	var come []string
	for p := range next {
		if !t.peers[p] {
			come = append(come, p)
		}
	}
	var orphans Set
	for i, leader := range t.leaders {
		if leader == "" || !next[leader] {
			orphans = orphans.With(i)
		}
	}
	t.peers = next
	slices.Sort(come)
	for i := range Count {
		if orphans.Has(i) {
			t.leaders[i] = rendezvous.First(Name(i), peers)
			continue
		}
		t.leaders[i] = rendezvous.First(Name(i), append([]string{t.leaders[i]}, come...))
	}
}

// led is what a peer leads.
func (t *table) led(peer string) Set {
	var s Set
	for i, leader := range t.leaders {
		if leader == peer {
			s = s.With(i)
		}
	}
	return s
}
