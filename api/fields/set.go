package fields

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// Path elements are strings of which the first byte says the kind.
const (
	// fieldElem begins a struct's field or a map's key.
	fieldElem = "f"
	// itemElem begins a list item's key or a set's value.
	itemElem = "k"
	// presenceElem is a struct's being there at all, fields or none.
	presenceElem = "."
	// positionElem is where an item stands in its list.
	positionElem = "@"
	// contentElem is what an item without fields of its own holds.
	contentElem = "="
)

// setFormat begins every encoded set.
const setFormat = 1

// maxDepth bounds paths. The deepest one in the built-in types has fewer than
// 20 elements; what is deeper in a custom resource counts as one leaf.
const maxDepth = 64

// set is a node in a tree of named paths. A named node has no branches: it
// stands for all below it.
type set struct {
	named bool
	kids  map[string]*set
}

var errBadSet = errors.New("bad field set")

func (s *set) empty() bool { return s == nil || !s.named && len(s.kids) == 0 }

// kid returns the branch elem, made if need be.
func (s *set) kid(elem string) *set {
	k := s.kids[elem]
	if k == nil {
		k = &set{}
		if s.kids == nil {
			s.kids = make(map[string]*set)
		}
		s.kids[elem] = k
	}
	return k
}

// name adds the path below s that is elem alone.
func (s *set) name(elem string) { *s.kid(elem) = set{named: true} }

// attach hangs branch below s unless it is empty.
func (s *set) attach(elem string, branch *set) {
	if !branch.empty() {
		*s.kid(elem) = *branch
	}
}

// deep: s has a path longer than can be decoded.
func (s *set) deep(depth int) bool {
	for _, k := range s.kids {
		if depth > maxDepth || k.deep(depth+1) {
			return true
		}
	}
	return false
}

// encode gives the one form of s, and nil if s is empty: format byte, then per
// node, from the root: count of branches | branches in byte order, each:
// length of the element × 2, plus 1 if named | element | node, unless named.
func (s *set) encode() []byte {
	if s.empty() {
		return nil
	}
	return s.append([]byte{setFormat})
}

func (s *set) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s.kids)))
	for _, elem := range slices.Sorted(maps.Keys(s.kids)) {
		k := s.kids[elem]
		head := uint64(len(elem)) << 1
		if k.named {
			head |= 1
		}
		dst = append(binary.AppendUvarint(dst, head), elem...)
		if !k.named {
			dst = k.append(dst)
		}
	}
	return dst
}

// decodeSet reads what encode wrote and nothing else.
func decodeSet(b []byte) (*set, error) {
	if len(b) == 0 {
		return &set{}, nil
	}
	if b[0] != setFormat {
		return nil, errBadSet
	}
	s, rest, err := decodeNode(b[1:], 0)
	if err != nil || len(rest) > 0 {
		return nil, errBadSet
	}
	return s, nil
}

func decodeNode(b []byte, depth int) (*set, []byte, error) {
	n, b, err := takeUvarint(b)
	// A branch takes at least two bytes: no allocation for a count the bytes
	// cannot hold. A node without branches and name would be a second form.
	if err != nil || n == 0 || n > uint64(len(b)/2) || depth > maxDepth {
		return nil, nil, errBadSet
	}
	s := &set{kids: make(map[string]*set, n)}
	last := ""
	for range n {
		var head uint64
		if head, b, err = takeUvarint(b); err != nil || head>>1 == 0 || head>>1 > uint64(len(b)) {
			return nil, nil, errBadSet
		}
		elem := string(b[:head>>1])
		b = b[head>>1:]
		if elem <= last {
			return nil, nil, errBadSet
		}
		last = elem
		k := &set{named: true}
		if head&1 == 0 {
			if k, b, err = decodeNode(b, depth+1); err != nil {
				return nil, nil, err
			}
		}
		s.kids[elem] = k
	}
	return s, b, nil
}

func takeUvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, errBadSet
	}
	return v, b[n:], nil
}

// union adds o to s.
func (s *set) union(o *set) {
	for elem, branch := range o.kids {
		k := s.kid(elem)
		switch {
		case k.named:
		case branch.named:
			*k = set{named: true}
		default:
			k.union(branch)
		}
	}
}

// subtract removes from s what o names, with all below it.
func (s *set) subtract(o *set) {
	for elem, branch := range o.kids {
		k := s.kids[elem]
		switch {
		case k == nil:
		case branch.named:
			delete(s.kids, elem)
		case k.named:
			// s wrote all below elem, o a part of it later: s is still the
			// latest writer of the rest.
		default:
			if k.subtract(branch); k.empty() {
				delete(s.kids, elem)
			}
		}
	}
}
