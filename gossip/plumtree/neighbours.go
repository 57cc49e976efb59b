package plumtree

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// DefaultRings gives each peer up to six neighbours: random regular graphs of
// that degree stay connected when a third of the peers vanish at once, and
// 5,000 peers are eight links apart at most.
const DefaultRings = 3

// Neighbours returns the peers that self keeps links with, sorted: those
// before and after it on so many rings, on each of which the members stand in
// another order. All peers with the same members agree on who is linked, and a
// member that comes or goes changes the links of its own neighbours alone.
func Neighbours(self Peer, members []Peer, rings int) []Peer {
	type place struct {
		hash uint64
		peer Peer
	}
	var found []Peer
	order := make([]place, 0, len(members)+1)
	for ring := range rings {
		order = order[:0]
		for _, p := range members {
			if p != self {
				order = append(order, place{ringHash(ring, p), p})
			}
		}
		order = append(order, place{ringHash(ring, self), self})
		slices.SortFunc(order, func(a, b place) int {
			return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.peer, b.peer))
		})
		at := slices.IndexFunc(order, func(p place) bool { return p.peer == self })
		for _, i := range []int{at + 1, at + len(order) - 1} {
			if p := order[i%len(order)].peer; p != self && !slices.Contains(found, p) {
				found = append(found, p)
			}
		}
	}
	slices.Sort(found)
	return found
}

// ringHash mixes FNV's result, whose upper bits change too little with the
// last letters of a name to put node-1 and node-2 far from each other.
func ringHash(ring int, p Peer) uint64 {
	h := fnv.New64a()
	h.Write([]byte{byte(ring)})
	h.Write([]byte(p))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
