package sim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"shoal/store"
)

func (r *run) upPeers() []*peer {
	var up []*peer
	for _, p := range r.peers {
		if p.member {
			up = append(up, p)
		}
	}
	return up
}

// equal: all members run and hold the same dots, and nothing is held back.
func (r *run) equal() bool {
	up := r.upPeers()
	for _, p := range up {
		if !p.up || p.replica.VectorDigest() != up[0].replica.VectorDigest() || p.replica.HeldBack() > 0 && !r.o.Poison {
			return false
		}
	}
	return true
}

// explain says why the cell is not equal.
func (r *run) explain() {
	var b strings.Builder
	up := r.upPeers()
	for _, p := range up {
		if !p.up {
			fmt.Fprintf(&b, "\n%s is down", p.name)
			continue
		}
		fmt.Fprintf(&b, "\n%s (%x): %d held back, lacks", p.name, uint64(p.replica.Actor()), p.replica.HeldBack())
		for _, q := range up {
			if q.up {
				if m := p.replica.Vector().Missing(q.replica.Vector()); len(m) > 0 {
					fmt.Fprintf(&b, " of %s %v", q.name, m)
				}
			}
		}
	}
	r.check.fail("", "not equal %v after all was held back could be merged:%s", r.o.Settle, b.String())
}

// verify holds the end of the run against the model.
func (r *run) verify() {
	up := r.upPeers()
	if !r.equal() {
		r.explain()
		return
	}
	for _, p := range up {
		r.check.claims(p)
		r.sameAs(up[0], p)
		r.keepsAll(p)
		r.measure(p)
	}
}

// sameAs: equal vectors, so equal states, byte for byte.
func (r *run) sameAs(p, q *peer) {
	for _, key := range mergeSorted(p.disk.keys, q.disk.keys) {
		if !ours(key) {
			continue
		}
		a, b := p.state(key), q.state(key)
		if a != nil && !a.life.live() {
			a = nil
		}
		if b != nil && !b.life.live() {
			b = nil
		}
		if a.String() != b.String() {
			r.check.fail(key, "%s and %s have equal vectors and under %s %v and %v", p.name, q.name, key, a, b)
			return
		}
	}
	if p.replica.Fingerprints() != q.replica.Fingerprints() {
		r.check.fail("", "%s and %s have equal vectors and records and different fingerprints%s", p.name, q.name, r.poisoned(p, q))
	}
}

// poisoned names what two peers differ in of what was sent by none.
func (r *run) poisoned(p, q *peer) string {
	var b strings.Builder
	for _, key := range mergeSorted(p.disk.keys, q.disk.keys) {
		if x, y := p.disk.values[key], q.disk.values[key]; strings.HasPrefix(key, "/") && !ours(key) && !bytes.Equal(x.Value, y.Value) {
			fmt.Fprintf(&b, "\n%s: %x and %x", key, x.Value, y.Value)
		}
	}
	return b.String()
}

func mergeSorted(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// keepsAll: no answered write is lost.
func (r *run) keepsAll(p *peer) {
	keys := make([]string, 0, len(r.check.keys))
	for key := range r.check.keys {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		h := r.check.keys[key]
		s := p.state(key)
		for _, w := range h.writes {
			if w.answered && !r.check.covers(s, w) {
				r.check.fail(key, "%s lost %v: it has %v", p.name, w, s)
				return
			}
		}
	}
}

// measure notes what is left on a disk of what should go away.
func (r *run) measure(p *peer) {
	tombstones, chunks := 0, 0
	for _, key := range p.disk.keys {
		s := p.disk.values[key]
		switch {
		case strings.HasPrefix(key, "\x00log"):
			chunks++
		case strings.HasPrefix(key, "/") && s.Meta&1 != 0:
			tombstones++
		}
		if strings.HasPrefix(key, eventsPrefix) && s.Meta&1 == 0 && p.state(key).timed() {
			r.check.fail(key, "%s still has %s, whose time is over: %v", p.name, key, p.state(key))
		}
	}
	r.result.Tombstones, r.result.Chunks = max(r.result.Tombstones, tombstones), max(r.result.Chunks, chunks)
}

var _ = store.Absent
