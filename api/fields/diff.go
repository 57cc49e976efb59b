package fields

// diff names the paths below a node of which before and after are two states.
// named means the node itself.
func diff(before, after *tree) (changed set) {
	switch {
	case before == nil && after == nil:
	case before == nil && after.kind == leaf, after == nil && before.kind == leaf:
		changed.named = true
	case before == nil:
		diffKids(&changed, &tree{kind: after.kind}, after)
		if after.kind == structure && !after.fixed {
			changed.name(presenceElem)
		}
	case after == nil && before.kind == structure:
		changed.named = true
	case after == nil:
		diffKids(&changed, before, &tree{kind: before.kind})
	case before.kind != after.kind:
		changed.named = true
	case before.kind == leaf:
		changed.named = !sameValue(before.value, after.value)
	default:
		diffKids(&changed, before, after)
	}
	return changed
}

func diffKids(changed *set, before, after *tree) {
	if before.kind == list {
		diffItems(changed, before, after)
		return
	}
	// Both sides are sorted by element.
	b, a := before.kids, after.kids
	for len(b) > 0 || len(a) > 0 {
		var branch set
		var elem string
		switch {
		case len(a) == 0 || len(b) > 0 && b[0].elem < a[0].elem:
			elem, branch, b = b[0].elem, diff(b[0].tree, nil), b[1:]
		case len(b) == 0 || a[0].elem < b[0].elem:
			elem, branch, a = a[0].elem, diff(nil, a[0].tree), a[1:]
		default:
			elem, branch, a, b = a[0].elem, diff(b[0].tree, a[0].tree), a[1:], b[1:]
		}
		changed.attach(elem, &branch)
	}
}

// diffItems compares lists. Items that come and go are named themselves; those
// that stay have their changes named and, behind the first item that is new or
// stands elsewhere, their positions.
func diffItems(changed *set, before, after *tree) {
	if sameItems(before, after) {
		for i := range after.kids {
			branch := diff(before.kids[i].tree, after.kids[i].tree)
			changed.attach(after.kids[i].elem, &branch)
		}
		return
	}
	places, stays := before.index(), after.index()
	for i := range before.kids {
		if _, ok := stays[before.kids[i].elem]; !ok {
			changed.name(before.kids[i].elem)
		}
	}
	last, moved := -1, false
	for _, item := range after.kids {
		place, ok := places[item.elem]
		if !ok {
			changed.name(item.elem)
			moved = true
			continue
		}
		branch := diff(before.kids[place].tree, item.tree)
		moved = moved || place < last
		if last = place; moved && !branch.named {
			branch.name(positionElem)
		}
		changed.attach(item.elem, &branch)
	}
}

// sameItems: the same keys in the same order, as nearly always.
func sameItems(a, b *tree) bool {
	if len(a.kids) != len(b.kids) {
		return false
	}
	for i := range a.kids {
		if a.kids[i].elem != b.kids[i].elem {
			return false
		}
	}
	return true
}
