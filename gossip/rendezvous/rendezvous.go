// Package rendezvous chooses who of several peers does some work, without a word
// between them: the one with the highest hash of both names (Thaler and
// Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998).
//
// What always holds: it is pure; peers that see the same others choose the same
// one, in whatever order; one that comes or goes moves only its own share.
//
// It is used by sched for what is led, and by api/hosts for what one of the
// living says about a host that is gone.
package rendezvous

import "hash/fnv"

// First returns who of the peers does the work; empty without peers.
func First(work string, peers []string) string {
	var first string
	var highest uint64
	for _, p := range peers {
		if h := weight(work, p); first == "" || h > highest || h == highest && p > first {
			first, highest = p, h
		}
	}
	return first
}

func weight(work, peer string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(work))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(peer))
	// FNV's upper bits change too little with the last letters of a name; this
	// spreads them (the finalizer of MurmurHash3).
	x := h.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
