package placement

import (
	"cmp"
	"hash/fnv"
	"slices"
	"sort"

	v1 "k8s.io/api/core/v1"
)

// ringEntry is one real node's place on the ring.
type ringEntry struct {
	hash uint64
	name string
	slot int
}

func (e ringEntry) compare(other ringEntry) int {
	return cmp.Or(cmp.Compare(e.hash, other.hash), cmp.Compare(e.name, other.name))
}

func (s *Snapshot) enterRing(slot int) {
	e := ringEntry{hashOf(s.nodes[slot].name), s.nodes[slot].name, slot}
	i, _ := slices.BinarySearchFunc(s.ring, e, ringEntry.compare)
	s.ring = slices.Insert(s.ring, i, e)
}

func (s *Snapshot) leaveRing(slot int) {
	e := ringEntry{hash: hashOf(s.nodes[slot].name), name: s.nodes[slot].name}
	if i, found := slices.BinarySearchFunc(s.ring, e, ringEntry.compare); found {
		s.ring = slices.Delete(s.ring, i, i+1)
	}
}

// startFor is where on the ring the search for a pod begins. It depends on the
// pod alone: different pods begin at different nodes, equal snapshots agree.
func (s *Snapshot) startFor(pod *v1.Pod) int {
	h := hashOf(string(pod.UID), pod.Namespace, pod.Name)
	i := sort.Search(len(s.ring), func(i int) bool { return s.ring[i].hash >= h })
	if i == len(s.ring) {
		return 0
	}
	return i
}

func hashOf(parts ...string) uint64 {
	h := fnv.New64a()
	for _, part := range parts {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return mix(h.Sum64())
}

// mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014): FNV alone keeps
// names that differ in their last letter close together on the ring.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
