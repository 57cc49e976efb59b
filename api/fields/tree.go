package fields

import (
	"reflect"
	"slices"
	"strings"
)

// kind says how a node of an object branches.
type kind uint8

const (
	// leaf has a value and no branches.
	leaf kind = iota
	// structure branches by name; it can be there and be empty.
	structure
	// mapping branches by name; empty and absent are one.
	mapping
	// list branches by its items' keys, in order; empty and absent are one.
	list
)

// tree is a node of an object. Absent is nil.
type tree struct {
	kind  kind
	fixed bool          // a structure that cannot be absent: a struct by value
	value reflect.Value // of a leaf
	kids  []kid         // by element; of a list in its own order
}

type kid struct {
	elem string
	*tree
}

// find returns the branch elem, or nil. Lists are not sorted and searched from
// end to end: who looks up many of their items makes an index.
func (t *tree) find(elem string) *tree {
	if t == nil {
		return nil
	}
	if t.kind != list {
		i, ok := slices.BinarySearchFunc(t.kids, elem, func(k kid, elem string) int { return strings.Compare(k.elem, elem) })
		if !ok {
			return nil
		}
		return t.kids[i].tree
	}
	for i := range t.kids {
		if t.kids[i].elem == elem {
			return t.kids[i].tree
		}
	}
	return nil
}

// index maps a list's elements to their places.
func (t *tree) index() map[string]int {
	if t == nil {
		return nil
	}
	places := make(map[string]int, len(t.kids))
	for i := range t.kids {
		places[t.kids[i].elem] = i
	}
	return places
}

// sameValue compares leaves. It may call equal values different, which costs a
// field named without need, and never the other way round.
func sameValue(a, b reflect.Value) bool {
	if a.Kind() == reflect.Pointer && b.Kind() == reflect.Pointer {
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
		a, b = a.Elem(), b.Elem()
	}
	if a.Kind() != b.Kind() {
		return false
	}
	switch a.Kind() {
	case reflect.Slice, reflect.Map:
		// Empty and nil are one to the API.
		if a.Len() == 0 && b.Len() == 0 {
			return true
		}
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
