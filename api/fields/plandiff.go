package fields

import "reflect"

// diff is what diff gives of the trees of before and after. Most of an object
// does not change with a write, so trees are made only of what did.
func (p *plan) diff(before, after reflect.Value) set {
	switch p.kind {
	case structure:
		if p.pointer {
			switch {
			case before.IsNil() && after.IsNil(), before.Pointer() == after.Pointer():
				return set{}
			case before.IsNil() || after.IsNil():
				return diff(p.flatten(before), p.flatten(after))
			}
			before, after = before.Elem(), after.Elem()
		}
		var changed set
		for i := range p.fields.sorted {
			f := &p.fields.sorted[i]
			if branch := f.plan.diff(field(before, f.index), field(after, f.index)); branch.named || branch.kids != nil {
				changed.attach(f.elem, &branch)
			}
		}
		return changed
	case mapping:
		if sameMap(before, after) {
			return set{}
		}
	case list:
		if p.sameList(before, after) {
			return set{}
		}
	case leaf:
		if sameValue(before, after) {
			return set{}
		}
	}
	return diff(p.flatten(before), p.flatten(after))
}

// field is FieldByIndex, quick for what is not embedded.
func field(v reflect.Value, index []int) reflect.Value {
	if len(index) == 1 {
		return v.Field(index[0])
	}
	return v.FieldByIndex(index)
}

func sameMap(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	if a.Len() == 0 {
		return true
	}
	if x, ok := a.Interface().(map[string]string); ok {
		for k, v := range b.Interface().(map[string]string) {
			if w, ok := x[k]; !ok || v != w {
				return false
			}
		}
		return true
	}
	for entries := a.MapRange(); entries.Next(); {
		v := b.MapIndex(entries.Key())
		if !v.IsValid() || !sameValue(entries.Value(), v) {
			return false
		}
	}
	return true
}

func (p *plan) sameList(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	for i := range a.Len() {
		if p.item == nil || p.content {
			if !sameValue(a.Index(i), b.Index(i)) {
				return false
			}
			continue
		}
		if branch := p.item.diff(a.Index(i), b.Index(i)); !branch.empty() {
			return false
		}
	}
	return true
}
