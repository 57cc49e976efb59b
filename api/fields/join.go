package fields

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
)

// claims is a tree of paths with the rank of the write that wrote each last:
// the stamps of one record seen the other way round. Rank 0 is the base,
// which wrote all that no other claims.
type claims struct {
	rank int
	kids map[string]*claims
}

func (c *claims) kid(elem string) *claims {
	if c == nil {
		return nil
	}
	return c.kids[elem]
}

func (c *claims) rankOf() int {
	if c == nil {
		return 0
	}
	return c.rank
}

func (c *claims) put(elem string, k *claims) {
	if k.rankOf() == 0 && (k == nil || len(k.kids) == 0) {
		return
	}
	if c.kids == nil {
		c.kids = make(map[string]*claims)
	}
	c.kids[elem] = k
}

// add claims what s names. Ranks are added in ascending order, so what was
// claimed below a path is void once the path is.
func (c *claims) add(s *set, rank int) {
	for elem, branch := range s.kids {
		if branch.named {
			c.put(elem, &claims{rank: rank})
			continue
		}
		k := c.kids[elem]
		if k == nil {
			k = &claims{}
		}
		k.add(branch, rank)
		c.put(elem, k)
	}
}

// sets takes c apart by rank.
func (c *claims) sets(ranks int) []*set {
	all := make([]*set, ranks+1)
	for i := range all {
		all[i] = &set{}
	}
	c.collect(all, nil)
	return all
}

func (c *claims) collect(all []*set, path []string) {
	for elem, k := range c.kids {
		path := append(path, elem)
		if k.rank > 0 {
			at := all[k.rank]
			for _, step := range path[:len(path)-1] {
				at = at.kid(step)
			}
			at.name(elem)
		}
		k.collect(all, path)
	}
}

// position is the rank of the write that put the item elem where it stands.
func (c *claims) position(elem string) int {
	k := c.kid(elem)
	if p := k.kid(positionElem); p != nil {
		return p.rank
	}
	return k.rankOf()
}

// side is one of two states of a node.
type side struct {
	claims *claims
	at     *tree
}

func (s side) kid(elem string) side { return side{s.claims.kid(elem), s.at.find(elem)} }

const (
	metadataElem   = fieldElem + "metadata"
	generationElem = fieldElem + "generation"
)

// join makes one state of two that know the same latest write of the node
// itself. What neither claims is base's. path is the elements of the node's path, one
// after the other.
func join(base, other side, path string) side {
	if other.claims == nil || len(other.claims.kids) == 0 {
		return base
	}
	shape := base.at
	if shape == nil {
		shape = other.at
	}
	if shape != nil && (shape.kind == leaf || other.at != nil && other.at.kind != shape.kind) {
		// Claims below a leaf come only of a base that was written as a whole
		// without knowing them: nothing there can take them.
		return base
	}
	out := &claims{rank: base.claims.rankOf()}
	if base.claims != nil {
		for elem, k := range base.claims.kids {
			out.put(elem, k)
		}
	}
	changes := make(map[string]*tree)
	for elem := range other.claims.kids {
		b, o := base.kid(elem), other.kid(elem)
		won := joinKid(b, o, path, elem)
		if won == b {
			continue
		}
		if won.claims == nil {
			delete(out.kids, elem)
		} else {
			out.put(elem, won.claims)
		}
		changes[elem] = won.at
	}
	return side{out, assemble(shape, base, other, out, changes)}
}

func joinKid(b, o side, path, elem string) side {
	// No other path reads like the object's own metadata.
	if path == metadataElem && elem == generationElem {
		return greater(b, o)
	}
	switch c := cmp.Compare(o.claims.rankOf(), b.claims.rankOf()); {
	case c > 0:
		return o
	case c < 0:
		return b
	}
	return join(b, o, path+elem)
}

// greater is the rule of metadata.generation.
func greater(b, o side) side {
	if c := cmp.Or(cmp.Compare(number(o.at), number(b.at)), cmp.Compare(o.claims.rankOf(), b.claims.rankOf())); c > 0 {
		return o
	}
	return b
}

func number(t *tree) int64 {
	if t == nil || t.kind != leaf {
		return 0
	}
	switch v := t.value.Interface().(type) {
	case int64:
		return v
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}

// assemble makes the node of base's branches and the changes to them.
func assemble(shape *tree, base, other side, out *claims, changes map[string]*tree) *tree {
	if shape == nil {
		return nil
	}
	t := &tree{kind: shape.kind, fixed: shape.fixed}
	if base.at != nil {
		t.kids = make([]kid, 0, len(base.at.kids)+len(changes))
		for _, k := range base.at.kids {
			sub, changed := changes[k.elem]
			if !changed {
				sub = k.tree
			}
			if delete(changes, k.elem); sub != nil {
				t.kids = append(t.kids, kid{k.elem, sub})
			}
		}
	}
	for elem, sub := range changes {
		if sub != nil {
			t.kids = append(t.kids, kid{elem, sub})
		}
	}
	_, claimed := changes[presenceElem]
	if t.kind == list {
		arrange(t, base, other, out)
	} else {
		slices.SortFunc(t.kids, func(a, b kid) int { return strings.Compare(a.elem, b.elem) })
	}
	switch {
	case t.kind != structure && len(t.kids) == 0:
		return nil
	case t.kind != structure || base.at != nil || claimed:
		return t
	case len(t.kids) == 0:
		return nil
	}
	// A field of a struct or an item that the base, written as a whole, left
	// out. A field alone would make no valid object: it comes back entire.
	return other.at
}

// arrange puts a list's items in the order of their positions' ranks. Items of
// one rank stand as that write had them, which both sides that know of it show.
func arrange(t *tree, base, other side, out *claims) {
	slices.SortFunc(t.kids, func(a, b kid) int {
		return cmp.Or(cmp.Compare(out.position(a.elem), out.position(b.elem)), strings.Compare(a.elem, b.elem))
	})
	inBase, inOther := base.at.index(), other.at.index()
	for start := 0; start < len(t.kids); {
		rank, end := out.position(t.kids[start].elem), start+1
		for end < len(t.kids) && out.position(t.kids[end].elem) == rank {
			end++
		}
		group := t.kids[start:end]
		switch {
		case shows(group, inBase, base.claims, rank):
			slices.SortFunc(group, func(a, b kid) int { return cmp.Compare(inBase[a.elem], inBase[b.elem]) })
		case shows(group, inOther, other.claims, rank):
			slices.SortFunc(group, func(a, b kid) int { return cmp.Compare(inOther[a.elem], inOther[b.elem]) })
		}
		start = end
	}
}

// shows: the side has all of the items where the write of that rank put them.
func shows(group []kid, places map[string]int, c *claims, rank int) bool {
	for _, k := range group {
		if _, ok := places[k.elem]; !ok || c.position(k.elem) != rank {
			return false
		}
	}
	return true
}
