package reconcile

import (
	"fmt"
	"slices"
	"strings"
)

// What one range is answered with.
const (
	// splitInto: more parts cost bytes for the parts that are equal, fewer
	// cost rounds. With 16, sets of 165,000 need five messages.
	splitInto = 16
	// listUpTo entries are listed instead of split further.
	listUpTo = 24
	// MaxRanges of one message; sets that differ in more places are
	// reconciled part by part: what does not fit is asked about later.
	MaxRanges = 1 << 12
	// MaxEntries listed in one message.
	MaxEntries = 1 << 14
	// MaxKeyBytes is the store's limit of a key.
	MaxKeyBytes = 2048
)

// Mode says what a Range carries.
type Mode uint8

// The modes. Their numbers are the wire form.
const (
	// Skip: this range is done.
	Skip Mode = iota
	// Compare: here is the sender's fingerprint.
	Compare
	// List: here are all of the sender's entries; list yours where they
	// differ.
	List
	// Answer: here are those of the sender's entries that the receiver lacks
	// or has otherwise, and no answer is needed.
	Answer
)

// Range is a message's part about the keys from the end of the range before it
// up to, not including, End. An empty End is the end of all keys; only the last
// range has it.
type Range struct {
	End         string
	Mode        Mode
	Fingerprint Fingerprint
	Entries     []Entry
}

// Message is one step of a session: ranges that cover all keys, in order.
type Message struct{ Ranges []Range }

// Difference is a key under which the two peers do not hold the same.
type Difference struct {
	Key string
	// Ours and Theirs are the versions; Has tells which exist.
	Ours, Theirs       uint64
	HasOurs, HasTheirs bool
}

// Session is one side of a reconciliation. One side sends Start's message, then
// each answers with Step until there is nothing to send.
type Session struct {
	set   *Set
	found []Difference
	// cut is set when a message had to leave something out.
	cut bool
}

// NewSession reconciles set.
func NewSession(set *Set) *Session { return &Session{set: set} }

// Start returns the first message.
func (s *Session) Start() Message {
	return Message{Ranges: []Range{{Mode: Compare, Fingerprint: s.set.Fingerprint()}}}
}

// Found returns the differences this side has learnt of, sorted by key: all
// that it must fetch, and some of what the other must.
func (s *Session) Found() []Difference {
	slices.SortFunc(s.found, func(a, b Difference) int { return strings.Compare(a.Key, b.Key) })
	return s.found
}

// Cut reports whether there may be more differences than one session carries.
func (s *Session) Cut() bool { return s.cut }

// Step takes a message in and returns the answer; false if the session is over.
func (s *Session) Step(m Message) (Message, bool, error) {
	var out builder
	from := 0
	for i, r := range m.Ranges {
		to := len(s.set.entries)
		if last := i == len(m.Ranges)-1; last != (r.End == "") {
			return Message{}, false, fmt.Errorf("take range %d in: %w", i, ErrCorrupt)
		}
		if r.End != "" {
			to = max(from, s.set.find(r.End))
		}
		s.step(&out, r, from, to)
		from = to
	}
	return Message{Ranges: out.ranges}, out.asks, nil
}

func (s *Session) step(out *builder, r Range, from, to int) {
	switch r.Mode {
	case Compare:
		if r.Fingerprint == s.set.sum(from, to) {
			out.skip(r.End)
			return
		}
		s.split(out, r.End, from, to)
	case List:
		mine := s.compare(r.Entries, from, to, true)
		if len(mine) == 0 || out.full(1, len(mine)) {
			s.cut = s.cut || len(mine) > 0
			out.skip(r.End)
			return
		}
		out.add(Range{End: r.End, Mode: Answer, Entries: mine})
	case Answer:
		s.compare(r.Entries, from, to, false)
		out.skip(r.End)
	default:
		out.skip(r.End)
	}
}

// split answers a range that differs: by listing a small one, else by its
// parts' fingerprints.
func (s *Session) split(out *builder, end string, from, to int) {
	n := to - from
	if n <= listUpTo {
		if out.full(1, n) {
			s.cut = true
			out.skip(end)
			return
		}
		out.add(Range{End: end, Mode: List, Entries: s.set.entries[from:to]})
		return
	}
	if out.full(splitInto, 0) {
		s.cut = true
		out.skip(end)
		return
	}
	at := from
	for part := range splitInto {
		next := from + n*(part+1)/splitInto
		partEnd := end
		if part < splitInto-1 {
			partEnd = between(s.set.entries[next-1].Key, s.set.entries[next].Key)
		}
		out.add(Range{End: partEnd, Mode: Compare, Fingerprint: s.set.sum(at, next)})
		at = next
	}
}

// compare notes how the other's entries differ from ours and returns those of
// ours that the other must learn of. A list is complete, an answer is not: in
// it, what the other does not name is no difference.
func (s *Session) compare(theirs []Entry, from, to int, complete bool) []Entry {
	var mine []Entry
	for i := from; i < to || len(theirs) > 0; {
		switch {
		case i < to && (len(theirs) == 0 || s.set.entries[i].Key < theirs[0].Key):
			e := s.set.entries[i]
			i++
			if complete {
				mine = append(mine, e)
				s.found = append(s.found, Difference{Key: e.Key, Ours: e.Version, HasOurs: true})
			}
		case i == to || theirs[0].Key < s.set.entries[i].Key:
			s.found = append(s.found, Difference{Key: theirs[0].Key, Theirs: theirs[0].Version, HasTheirs: true})
			theirs = theirs[1:]
		default:
			e := s.set.entries[i]
			if e.Version != theirs[0].Version {
				mine = append(mine, e)
				s.found = append(s.found, Difference{e.Key, e.Version, theirs[0].Version, true, true})
			}
			i++
			theirs = theirs[1:]
		}
	}
	return mine
}

// builder gathers an answer's ranges; neighbouring ones that are done become
// one.
type builder struct {
	ranges  []Range
	entries int
	asks    bool
}

func (b *builder) full(ranges, entries int) bool {
	// One range is kept free for what is skipped after this.
	return len(b.ranges)+2*ranges >= MaxRanges || b.entries+entries > MaxEntries
}

func (b *builder) skip(end string) {
	if n := len(b.ranges); n > 0 && b.ranges[n-1].Mode == Skip {
		b.ranges[n-1].End = end
		return
	}
	b.ranges = append(b.ranges, Range{End: end})
}

func (b *builder) add(r Range) {
	b.ranges = append(b.ranges, r)
	b.entries += len(r.Entries)
	b.asks = true
}
