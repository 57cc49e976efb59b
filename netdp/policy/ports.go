package policy

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"shoal/netdp/policy/tables"
)

// span is a range of ports of a protocol, both ends included.
type span struct {
	protocol uint8
	low      uint16
	high     uint16
}

// portSet is what may be called of a peer. The zero value is nothing; all has
// protocols without ports too.
type portSet struct {
	all   bool
	spans []span
}

func (s *portSet) add(spans ...span) { s.spans = append(s.spans, spans...) }

func (s *portSet) join(other portSet) {
	s.all = s.all || other.all
	s.add(other.spans...)
}

func (s *portSet) empty() bool { return !s.all && len(s.spans) == 0 }

func (sp span) contains(protocol uint8, port uint16) bool {
	return sp.protocol == protocol && sp.low <= port && port <= sp.high
}

// merge makes equal sets look equal: in order, and without overlap.
func (s *portSet) merge() {
	if s.all {
		s.spans = nil
		return
	}
	if len(s.spans) < 2 {
		return
	}
	spans := slices.Clone(s.spans)
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.low, b.low), cmp.Compare(a.high, b.high))
	})
	out := spans[:1]
	for _, sp := range spans[1:] {
		last := &out[len(out)-1]
		if sp.protocol == last.protocol && int(sp.low) <= int(last.high)+1 {
			last.high = max(last.high, sp.high)
			continue
		}
		out = append(out, sp)
	}
	s.spans = out
}

func (s *portSet) String() string {
	var b strings.Builder
	for _, sp := range s.spans {
		fmt.Fprintf(&b, "%d:%d-%d ", sp.protocol, sp.low, sp.high)
	}
	return b.String()
}

// prefixes cuts a range of ports into the fewest that have their first bits in
// common: at most 30.
func (sp span) prefixes(yield func(port uint16, length uint8)) {
	for low, end := uint32(sp.low), uint32(sp.high)+1; low < end; {
		size := 16
		if low != 0 {
			size = bits.TrailingZeros32(low)
		}
		for low+1<<size > end {
			size--
		}
		yield(uint16(low), uint8(16-size))
		low += 1 << size
	}
}

// portsOf are the entries of a profile.
func portsOf(profile tables.ID, s *portSet, entries map[tables.PortKey]struct{}) {
	for _, sp := range s.spans {
		sp.prefixes(func(port uint16, length uint8) {
			entries[tables.PortKey{Profile: profile, Protocol: sp.protocol, Port: port, Bits: length}] = struct{}{}
		})
	}
}
