package sim

import (
	"errors"
	"slices"
	"time"
)

// nemesis lets things go wrong, one after the other, until the run's time is
// over.
func (r *run) nemesis() {
	if r.o.Calm || r.loop.now > r.o.Duration {
		return
	}
	r.mischief()
	r.loop.after(r.between(200*time.Millisecond, 2*time.Second), r.nemesis)
}

func (r *run) mischief() {
	p := r.someUp()
	if p == nil {
		return
	}
	switch r.random.IntN(13) {
	case 0, 1:
		r.partition()
	case 2:
		r.cutOne()
	case 3:
		r.slowOne()
	case 4:
		r.net.loss, r.net.dup = r.random.Float64()*0.4, r.random.Float64()*0.3
		r.trace.note("", r.loop.now, "loss %.2f, repeats %.2f", r.net.loss, r.net.dup)
	case 5:
		p.crash("at rest")
	case 6, 7:
		p.disk.stopAfter, p.disk.stopWith = r.random.IntN(6), errCrashed
		r.trace.note("", r.loop.now, "%s will crash after %d writes to its disk", p.name, p.disk.stopAfter)
	case 8, 9:
		r.fill(p)
	case 10:
		r.jump(p)
	case 11:
		r.comeOrGo()
	case 12:
		if r.o.Lying {
			r.lie(p)
		} else {
			p.disk.stopAfter, p.disk.stopWith = r.random.IntN(6), errFull
		}
	}
}

// partition splits the cell in two for a while.
func (r *run) partition() {
	side := make([]bool, len(r.peers))
	for i := range side {
		side[i] = r.random.IntN(2) == 0
	}
	r.trace.note("", r.loop.now, "split %v", side)
	for a := range side {
		for b := range side {
			if side[a] != side[b] {
				r.net.cut[[2]int{a, b}] = true
			}
		}
	}
	r.spreadSoon()
	r.loop.after(r.between(500*time.Millisecond, 6*time.Second), func() {
		r.trace.note("", r.loop.now, "heal")
		clear(r.net.cut)
		r.spreadSoon()
	})
}

// cutOne cuts one direction of one link.
func (r *run) cutOne() {
	link := [2]int{r.random.IntN(len(r.peers)), r.random.IntN(len(r.peers))}
	r.net.cut[link] = true
	r.trace.note("", r.loop.now, "cut %v", link)
	r.spreadSoon()
	r.loop.after(r.between(500*time.Millisecond, 5*time.Second), func() { delete(r.net.cut, link); r.spreadSoon() })
}

func (r *run) slowOne() {
	link := [2]int{r.random.IntN(len(r.peers)), r.random.IntN(len(r.peers))}
	r.net.slow[link] = r.between(10*time.Millisecond, 1500*time.Millisecond)
	r.loop.after(r.between(time.Second, 5*time.Second), func() { delete(r.net.slow, link) })
}

// fill makes a disk refuse writes, after some.
func (r *run) fill(p *peer) {
	if p.full {
		return
	}
	p.full = true
	r.trace.note("", r.loop.now, "the disk of %s fills up", p.name)
	until := r.loop.now + r.between(200*time.Millisecond, 2*time.Second)
	var again func()
	again = func() {
		if r.loop.now >= until {
			p.full = false
			if errors.Is(p.disk.stopWith, errFull) {
				p.disk.stopAfter = -1
			}
			return
		}
		if p.disk.stopAfter < 0 {
			p.disk.stopAfter, p.disk.stopWith = r.random.IntN(4), errFull
		}
		r.loop.after(10*time.Millisecond, again)
	}
	again()
}

// maxJump is how far a clock may be off.
const maxJump = 4 * time.Second

func (r *run) jump(p *peer) {
	if r.o.Lying {
		return // the two together can make a dot name two writes
	}
	p.clock.skew = r.between(0, 2*maxJump) - maxJump
	if r.random.IntN(2) == 0 {
		p.clock.skew /= 20
	}
	r.trace.note("", r.loop.now, "the clock of %s is off by %v", p.name, p.clock.skew)
}

// comeOrGo adds a peer, takes one out, or takes one back.
func (r *run) comeOrGo() {
	var members, gone []*peer
	for _, p := range r.peers {
		if p.member {
			members = append(members, p)
		} else {
			gone = append(gone, p)
		}
	}
	switch n := r.random.IntN(3); {
	case n == 0 && len(members) > r.o.Peers-2 && len(members) > 2:
		if p := members[r.random.IntN(len(members))]; r.othersJoined(p) && r.knewNoMore(p) {
			r.forget(p)
		}
	case n == 1 && len(gone) > 0:
		p := gone[r.random.IntN(len(gone))]
		r.trace.note("", r.loop.now, "%s comes back, with nothing", p.name)
		p.boot()
	case len(members) < r.o.Peers+2:
		p := r.newPeer()
		r.trace.note("", r.loop.now, "%s joins", p.name)
		p.boot()
	}
}

// othersJoined: somebody else can let new peers in.
func (r *run) othersJoined(p *peer) bool {
	for _, q := range r.peers {
		if q != p && q.up && !q.replica.Joining() {
			return true
		}
	}
	return false
}

// knewNoMore: all know the members that p knows. Who let somebody in and is
// forgotten before anybody heard of it leaves a member for whom nobody waits;
// a day passes before a peer is forgotten.
func (r *run) knewNoMore(p *peer) bool {
	for _, key := range p.disk.keys {
		if _, ok := memberKey(key); !ok {
			continue
		}
		for _, q := range r.peers {
			if s := q.state(key); q.member && (s == nil || s.life.compare(p.state(key).life) < 0) {
				return false
			}
		}
	}
	return true
}

// forget takes a peer out for good: its disk is wiped before it may come back.
// Another peer removes it from the members.
func (r *run) forget(p *peer) {
	p.crash("and is forgotten")
	p.member = false
	had := r.statesOf(p)
	own := p.ownMembers()
	changed := p.disk.changed
	p.disk = newDisk()
	p.disk.changed = changed
	p.bounds = make(map[string]life)
	r.check.excuse(p, sortedKeys(had), had)
	for _, key := range own {
		r.remove(key)
	}
	r.spread()
}

// lie loses what was synced last, and crashes.
func (r *run) lie(p *peer) {
	// If all forget that they have joined, nobody is left to let them in.
	if !slices.ContainsFunc(r.peers, func(q *peer) bool { return q != p && q.member && q.boots > 0 && !q.joins() }) {
		return
	}
	commits := 1 + r.random.IntN(12)
	p.crash("and its disk lied")
	had := r.statesOf(p)
	keys := p.disk.lose(commits)
	r.trace.note("", r.loop.now, "%s lost its last %d commits: %q", p.name, commits, keys)
	r.check.excuse(p, keys, had)
}
