package sim

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	"shoal/store"
)

// The model knows by itself in what order records stand; it shares no code with
// the store's merge.

// moment is a stamp without fields.
type moment struct {
	time  store.HLC
	actor store.Actor
}

func momentOf(s store.Stamp) moment { return moment{s.Time, s.Actor} }

func (m moment) compare(o moment) int {
	return cmp.Or(cmp.Compare(m.time, o.time), cmp.Compare(m.actor, o.actor))
}

// life is one existence of a name, or the tombstone after it.
type life struct {
	length uint64
	// began is the birth; of a tombstone its stamp.
	began moment
	uid   string
}

func (l life) live() bool { return l.length%2 == 1 }

// compare is positive if l is kept over o.
func (l life) compare(o life) int {
	switch c := cmp.Compare(l.length, o.length); {
	case c != 0:
		return c
	case !l.live():
		return l.began.compare(o.began)
	}
	if c := o.began.compare(l.began); c != 0 {
		return c
	}
	return cmp.Compare(o.uid, l.uid)
}

func (l life) String() string {
	return fmt.Sprintf("%d@%x/%04x%s", l.length, uint64(l.began.time), uint64(l.began.actor)>>48, l.uid)
}

// state is what a peer has under a key.
type state struct {
	life    life
	latest  moment
	value   object
	expires uint64
	stamps  []store.Stamp
}

func (s *state) String() string {
	if s == nil {
		return "nothing"
	}
	return fmt.Sprintf("%v %v at %x/%04x", s.life, map[byte]uint64(s.value), uint64(s.latest.time), uint64(s.latest.actor)>>48)
}

// stampOf is when the record says a field was written.
func (s *state) stampOf(field byte) moment {
	var base, named moment
	for _, st := range s.stamps {
		m := momentOf(st)
		switch {
		case len(st.Fields) == 0 && m.compare(base) > 0:
			base = m
		case bytes.Contains(st.Fields, []byte{field}) && m.compare(named) > 0:
			named = m
		}
	}
	if named.compare(base) > 0 {
		return named
	}
	return base
}

// storedHeader is what precedes a record on disk: a format byte and a digest.
const storedHeader = 9

func stateOf(value []byte) (*state, error) {
	if len(value) < storedHeader {
		return nil, fmt.Errorf("%d bytes on disk", len(value))
	}
	r, err := store.DecodeRecord(value[storedHeader:])
	if err != nil {
		return nil, err
	}
	s := &state{latest: momentOf(r.Stamp()), expires: r.ExpiresMicros, stamps: r.Stamps}
	s.life = life{length: r.CausalLength, began: s.latest}
	if !r.Live() {
		return s, nil
	}
	s.life.began, s.life.uid = momentOf(r.Born), r.UID
	s.value, err = decodeObject(r.Value)
	return s, err
}

// write is one write a client made at a peer.
type write struct {
	op     uint64
	key    string
	dot    store.Dot
	life   life
	at     moment
	fields []byte // those it wrote
	made   time.Duration
	peer   *peer
	// ends is when its time is over, by the clock of its peer; zero for never.
	ends time.Time
	// answered: the client was told. excused: a disk that lies lost the only
	// copy, which nothing can help.
	answered, excused bool
}

func (w *write) String() string {
	return fmt.Sprintf("write %d of %s by %s (%x:%d, %v, fields %q, at %x)", w.op, w.key, w.peer.name, uint64(w.dot.Actor)>>48, w.dot.Sequence, w.life, w.fields, uint64(w.at.time))
}

// claim is a field's value as of one life.
type claim struct {
	life  life
	field byte
	op    uint64
}

// history is all that is known of one key.
type history struct {
	writes []*write
	// claims say when each value was last written, by the write itself or by
	// one of the whole object that took it along.
	claims map[claim]moment
	// ended is the highest life that was rightly taken away: a tombstone that
	// all had, or a record whose time had come.
	ended    life
	hasEnded bool
	// byTime: its time was over. Who is late to see that may prolong it yet.
	byTime bool
}

// claimed is when what s has of a field was written last; that it has none was
// said by who last wrote the whole.
func (h *history) claimed(s *state, field byte) moment {
	if op, ok := s.value[field]; ok {
		return h.claims[claim{s.life, field, op}]
	}
	return s.stampOf(field)
}

// timed: the state is of a record that ends by itself, or the end of one.
func (s *state) timed() bool { return s.expires != 0 }

// covers reports whether s has w in it or is over it; s may be nil.
func (h *history) covers(s *state, w *write) bool {
	if s == nil {
		return h.hasEnded && h.ended.compare(w.life) >= 0
	}
	if !s.life.live() && s.life.length == w.life.length {
		return true // deleted is deleted, whichever deletion or end it was
	}
	if c := s.life.compare(w.life); c != 0 {
		return c > 0
	}
	for _, f := range w.fields {
		if h.claimed(s, f).compare(w.at) < 0 {
			return false
		}
	}
	return true
}

// back says in what now is behind was, of one peer's states; empty if in
// nothing.
func (h *history) back(was, now *state) string {
	if c := now.life.compare(was.life); c != 0 || !now.life.live() {
		if c < 0 {
			return "its life"
		}
		return ""
	}
	for f := byte('a'); f <= 'z'; f++ {
		op, ok := was.value[f]
		// What was is held to the least that it may claim.
		held := h.claims[claim{was.life, f, op}]
		if own := was.stampOf(f); own.compare(held) < 0 {
			held = own
		}
		if ok && h.claimed(now, f).compare(held) < 0 {
			return fmt.Sprintf("field %c", f)
		}
	}
	return ""
}

func (h *history) end(l life, byTime bool) {
	if !h.hasEnded || l.compare(h.ended) > 0 {
		h.ended, h.hasEnded, h.byTime = l, true, byTime
	}
}
