package store

// A deletion frees space, if not this disk's then the cell's: the object's host
// only gives back what it holds when it learns of it. So while writes are refused
// deletions are still taken, as long as they need no space: the log of the
// current memtable has its blocks, and until it is full nothing else is written.

const (
	// entryOverheadBytes is more than what badger adds to an entry, in memory and
	// in the log.
	entryOverheadBytes = 256
	// memTableUsedAtOpen is more than what Open writes.
	memTableUsedAtOpen = memTableBytes / 16
)

// wrote counts what the current memtable has taken.
func (g *spaceGuard) wrote(bytes int) {
	g.last = bytes
	g.used += bytes
}

// checkFreeing says whether a batch of so many bytes may be written although
// there is no space: it fits what is allocated.
func (g *spaceGuard) checkFreeing(bytes, writes int) bool {
	if _, err := g.nextWaits(); err != nil {
		return false
	}
	// Each write comes with a note of its dot.
	need := bytes + 2*writes*entryOverheadBytes
	return g.allocated && g.used+need < memTableBytes
}

// keepFreeing leaves in the batch what frees space, and answers the rest with
// err. It reports whether anything is left.
func (b *batch) keepFreeing(frees func(key string, value []byte) bool, err error) bool {
	all := append([]*pending(nil), b.pending...)
	b.reset()
	for _, p := range all {
		switch kept := p.freeing(frees); {
		case kept == nil:
			p.done <- outcome{err: err}
		case kept != p:
			kept.partly = err
			fallthrough
		default:
			b.add(kept)
		}
	}
	return len(b.pending) > 0
}

// freeing is p, or of another peer's changes those that free space; nil if none
// do. Whoever brought the others is told that they were refused, and brings all
// again.
func (p *pending) freeing(frees func(key string, value []byte) bool) *pending {
	small := func(value []byte) bool { return len(value) < valueLogThreshold/2 }
	switch p.kind {
	case userUpdate:
		if p.update.Delete || small(p.update.Value) && frees != nil && frees(p.update.Key, p.update.Value) {
			return p
		}
	case merging:
		var some []Delta
		for _, d := range p.deltas {
			if r := &d.Record; !d.Void() && (!r.Live() || small(r.Value) && frees != nil && frees(d.Key, r.Value)) {
				some = append(some, d)
			}
		}
		if len(some) == len(p.deltas) {
			return p
		}
		if len(some) > 0 {
			return &pending{kind: merging, deltas: some, done: p.done}
		}
	}
	return nil
}
