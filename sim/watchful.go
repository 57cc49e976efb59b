package sim

import (
	"fmt"
	"slices"
	"strings"

	"shoal/store"
	"shoal/store/vector"
)

// checker holds every change of every disk against the model.
type checker struct {
	r     *run
	keys  map[string]*history
	ops   map[uint64]*write
	dots  map[store.Dot]*write
	first error
	// where is the key the failure is about.
	where string
}

func newChecker(r *run) *checker {
	return &checker{r: r, keys: make(map[string]*history), ops: make(map[uint64]*write), dots: make(map[store.Dot]*write)}
}

func (c *checker) history(key string) *history {
	h := c.keys[key]
	if h == nil {
		h = &history{claims: make(map[claim]moment)}
		c.keys[key] = h
	}
	return h
}

// fail notes the first failure; the run ends.
func (c *checker) fail(key, format string, args ...any) {
	if c.first == nil {
		c.first, c.where = fmt.Errorf("%v: %s", c.r.loop.now, fmt.Sprintf(format, args...)), key
		c.r.trace.note(key, c.r.loop.now, "FAILED: %v", c.first)
	}
}

func ours(key string) bool {
	return strings.HasPrefix(key, "/") && !strings.HasPrefix(key, poisonPrefix)
}

// changed is called for each write that lands on p's disk.
func (c *checker) changed(p *peer, was *store.Stored, w *store.Write) {
	if !ours(w.Key) {
		return
	}
	h := c.history(w.Key)
	var before *state
	if was != nil {
		var err error
		if before, err = stateOf(was.Value); err != nil {
			c.fail(w.Key, "%s has what cannot be read under %s: %v", p.name, w.Key, err)
			return
		}
	}
	if w.Erase {
		c.erased(p, h, w.Key, before)
		return
	}
	now, err := stateOf(w.Value)
	if err != nil {
		c.fail(w.Key, "%s writes what cannot be read under %s: %v", p.name, w.Key, err)
		return
	}
	c.r.trace.note(w.Key, c.r.loop.now, "%s has %v", p.name, now)
	if p.writing != nil && p.writing.key == w.Key && !p.writing.registered {
		c.register(p, h, now)
	}
	for f := byte('a'); f <= 'z'; f++ {
		op, ok := now.value[f]
		if !ok {
			continue
		}
		if o := c.ops[op]; o == nil || o.key != w.Key {
			c.fail(w.Key, "%s has under %s a field %c that nobody wrote: %v", p.name, w.Key, f, now)
			return
		}
	}
	// What ended by some clock is passed on as ended.
	if !now.life.live() && now.timed() && began.Add(c.r.loop.now+maxJump).Before(began2024(now.expires)) {
		c.fail(w.Key, "%s ended %s before its time: %v", p.name, w.Key, before)
	}
	c.forward(p, h, w.Key, before, now)
}

// forward: what a peer has of a key never goes back.
func (c *checker) forward(p *peer, h *history, key string, before, now *state) {
	if before != nil {
		if what := h.back(before, now); what != "" {
			c.fail(key, "%s of %s went back at %s: %v, then %v", what, key, p.name, before, now)
		}
	}
	if l, ok := p.bounds[key]; ok && now.life.compare(l) < 0 && now.life.live() {
		c.fail(key, "%s returned to life at %s: %v ended there, then %v", key, p.name, l, now)
	}
	if h.hasEnded && !h.byTime && now.life.live() && now.life.compare(h.ended) < 0 && p.member && !c.r.o.Lying {
		c.fail(key, "%s returned to life at %s: its deletion %v was reaped, then %v", key, p.name, h.ended, now)
	}
}

// erased: only what has expired, or what all members have, is taken away.
func (c *checker) erased(p *peer, h *history, key string, before *state) {
	if before == nil {
		return
	}
	c.r.trace.note(key, c.r.loop.now, "%s erases %v", p.name, before)
	l := before.life
	switch {
	case p.joins():
		return // it begins anew
	case l.live():
		c.fail(key, "%s erased what lives: %v", p.name, before)
	default:
		for _, q := range c.r.peers {
			if !q.member || q.joins() {
				continue
			}
			// It may not see yet that the time is over.
			late := func(s *state) bool { return before.timed() && s.life.length+1 >= l.length }
			if s := q.state(key); s != nil && s.life.compare(l) < 0 && !late(s) {
				c.fail(key, "%s reaped the tombstone %v of %s, and %s still has %v", p.name, l, key, q.name, s)
			}
		}
	}
	h.end(l, before.timed())
	if before.timed() {
		return
	}
	if b, ok := p.bounds[key]; !ok || l.compare(b) > 0 {
		p.bounds[key] = l
	}
}

// register notes a write the moment it lands.
func (c *checker) register(p *peer, h *history, now *state) {
	op := p.writing
	op.registered = true
	w := &write{op: op.id, key: op.key, life: now.life, at: now.latest, made: c.r.loop.now, peer: p}
	if now.expires != 0 {
		w.ends = began2024(now.expires)
	}
	last := now.stamps[len(now.stamps)-1]
	for f, by := range now.value {
		if by == op.id || len(now.stamps) == 1 && len(last.Fields) == 0 {
			w.fields = append(w.fields, f)
			k := claim{now.life, f, by}
			if h.claims[k].compare(w.at) < 0 {
				h.claims[k] = w.at
			}
		}
	}
	slices.Sort(w.fields)
	if other := c.ops[op.id]; other != nil {
		c.fail(op.key, "two writes of one operation: %v and %v", other, w)
	}
	c.ops[op.id], op.write = w, w
	h.writes = append(h.writes, w)
}

// covers reports whether a write is in a state, or need not be any more.
func (c *checker) covers(s *state, w *write) bool {
	if w.excused || c.keys[w.key].covers(s, w) {
		return true
	}
	// Some clock may be ahead, and what it took for over is passed on as over.
	return !w.ends.IsZero() && w.ends.Before(began.Add(c.r.loop.now+2*maxJump))
}

// answered: a client was told that its write is safe.
func (c *checker) answered(w *write, before *state, dot store.Dot) {
	w.answered, w.dot = true, dot
	if other := c.dots[dot]; other != nil && (other.op != w.op) {
		c.fail(w.key, "dot %x:%d names two writes: %v and %v", uint64(dot.Actor), dot.Sequence, other, w)
	}
	c.dots[dot] = w
	if before != nil && w.life.compare(before.life) <= 0 && (w.life != before.life || w.at.compare(before.latest) <= 0) {
		c.fail(w.key, "%v does not stand above what it saw: %v", w, before)
	}
}

// claims checks that what a peer's vector newly names is in its states.
func (c *checker) claims(p *peer) {
	v := p.replica.Vector()
	fresh := p.claimed.Missing(v)
	if len(fresh) == 0 {
		return
	}
	for _, w := range c.byDot(fresh) {
		if !c.covers(p.state(w.key), w) && !c.repeated(w) {
			c.fail(w.key, "%s says it holds %v, and has %v", p.name, w, p.state(w.key))
			return
		}
	}
	p.claimed = v
}

// repeated: a disk lost a tombstone that all had. Sets that are reconciled leave
// it out; who still has it gives it again.
func (c *checker) repeated(w *write) bool {
	return c.r.o.Lying && slices.ContainsFunc(c.r.peers, func(q *peer) bool {
		s := q.state(w.key)
		return q.member && s != nil && !s.life.live() && c.covers(s, w)
	})
}

func (c *checker) byDot(v vector.Vector) []*write {
	var all []*write
	for a, spans := range v {
		for _, s := range spans {
			// A vector may claim what was never written; stop at the last known.
			for n := s.First; n <= s.Last && n-s.First < 1<<20; n++ {
				if w := c.dots[store.Dot{Actor: a, Sequence: n}]; w != nil {
					all = append(all, w)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *write) int { return int(a.op) - int(b.op) })
	return all
}

// excuse forgives the loss of what only p's disk had, after it lost it.
func (c *checker) excuse(p *peer, keys []string, had map[string]*state) {
	for _, key := range keys {
		h := c.keys[key]
		if h == nil {
			continue
		}
		delete(p.bounds, key)
		for _, w := range h.writes {
			if w.excused || !h.covers(had[key], w) {
				continue
			}
			w.excused = !slices.ContainsFunc(c.r.peers, func(q *peer) bool {
				s := q.state(key)
				return q.member && !q.joins() && s != nil && h.covers(s, w)
			})
			if w.excused {
				c.r.trace.note(key, c.r.loop.now, "%v is lost with the disk of %s", w, p.name)
			}
		}
	}
}
