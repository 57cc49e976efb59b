package fields

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// plan says how a Go type of the API becomes a tree and a tree becomes it
// again. A plan does not change once it is made.
type plan struct {
	kind    kind
	pointer bool       // the type is a pointer to what kind says
	fields  *fieldList // of a structure
	item    *plan      // of a list's items; nil for a set's
	keys    [][]int    // of a list's items, the key fields' indexes
	content bool       // items have no fields of their own
}

// fieldList is what plans of one struct type share; a type may hold itself.
type fieldList struct {
	sorted []planField // by element
}

type planField struct {
	elem  string
	index []int
	plan  *plan
}

var (
	planLock sync.Mutex
	// structs is guarded by planLock and has at most one entry for each struct
	// type of the API.
	structs = map[reflect.Type]*fieldList{}
)

// planOf returns the plan of the pointer to a struct that an API object is.
func planOf(object reflect.Type) *plan {
	planLock.Lock()
	defer planLock.Unlock()
	return compile(object, "")
}

var (
	marshaler = reflect.TypeFor[json.Marshaler]()
	leafPlan  = &plan{kind: leaf}
)

// compile needs planLock. rule is what rules says of the field of that type.
func compile(t reflect.Type, rule string) *plan {
	elem, pointer := t, t.Kind() == reflect.Pointer
	if pointer {
		elem = t.Elem()
	}
	switch {
	case rule == ruleAtomic || isScalar(elem):
		return leafPlan
	case elem.Kind() == reflect.Struct:
		return &plan{kind: structure, pointer: pointer, fields: compileStruct(elem)}
	case pointer:
		return leafPlan
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		return &plan{kind: mapping}
	case t.Kind() == reflect.Slice && rule != "":
		return compileList(t.Elem(), rule)
	}
	return leafPlan
}

// isScalar: a type that writes its own JSON, such as a time or a quantity, is
// one value to the API.
func isScalar(t reflect.Type) bool {
	return t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler)
}

func compileStruct(t reflect.Type) *fieldList {
	if l := structs[t]; l != nil {
		return l
	}
	l := &fieldList{}
	structs[t] = l
	for _, f := range structFields(t) {
		sub := compile(f.typ, rules[typeName(t)+"."+f.name])
		l.sorted = append(l.sorted, planField{fieldElem + f.name, f.index, sub})
	}
	slices.SortFunc(l.sorted, func(a, b planField) int { return strings.Compare(a.elem, b.elem) })
	return l
}

func compileList(item reflect.Type, rule string) *plan {
	p := &plan{kind: list}
	if rule == ruleSet {
		return p
	}
	names, content := strings.CutPrefix(rule, ruleContent)
	names = strings.TrimPrefix(names, ruleKeys)
	p.item, p.content = compile(item, ""), content
	if p.item.kind != structure || p.item.pointer {
		return leafPlan
	}
	// Not of item's plan, which is not yet complete if it is what we are in.
	all := structFields(item)
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(f structField) bool { return f.name == name })
		if i < 0 {
			return leafPlan
		}
		p.keys = append(p.keys, all[i].index)
	}
	return p
}

type structField struct {
	name  string // in JSON
	index []int
	typ   reflect.Type
}

// structFields lists the fields of t as JSON shows them, embedded ones among
// them.
func structFields(t reflect.Type) []structField {
	var all []structField
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			for _, inner := range structFields(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				all = append(all, inner)
			}
		case !f.IsExported():
		case name == "" || name == "-":
			all = append(all, structField{f.Name, []int{i}, f.Type})
		default:
			all = append(all, structField{name, []int{i}, f.Type})
		}
	}
	return all
}

// typeName is how rules names a struct type.
func typeName(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }

// flatten makes a tree of v. What Go cannot tell from absent is absent.
func (p *plan) flatten(v reflect.Value) *tree {
	switch p.kind {
	case structure:
		if p.pointer {
			if v.IsNil() {
				return nil
			}
			v = v.Elem()
		}
		t := &tree{kind: structure, fixed: !p.pointer}
		t.kids = make([]kid, 0, len(p.fields.sorted))
		for _, f := range p.fields.sorted {
			if sub := f.plan.flatten(field(v, f.index)); sub != nil {
				t.kids = append(t.kids, kid{f.elem, sub})
			}
		}
		return t
	case mapping:
		return flattenMap(v)
	case list:
		return p.flattenList(v)
	}
	if v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 || v.Kind() == reflect.Map && v.Len() == 0 {
		return nil
	}
	return &tree{kind: leaf, value: v}
}

func flattenMap(v reflect.Value) *tree {
	if v.Len() == 0 {
		return nil
	}
	t := &tree{kind: mapping, kids: make([]kid, 0, v.Len())}
	for entries := v.MapRange(); entries.Next(); {
		t.kids = append(t.kids, kid{fieldElem + entries.Key().String(), &tree{kind: leaf, value: entries.Value()}})
	}
	slices.SortFunc(t.kids, func(a, b kid) int { return strings.Compare(a.elem, b.elem) })
	return t
}

func (p *plan) flattenList(v reflect.Value) *tree {
	if v.Len() == 0 {
		return nil
	}
	t := &tree{kind: list, kids: make([]kid, 0, v.Len())}
	seen := make(map[string]int, v.Len())
	for i := range v.Len() {
		item := v.Index(i)
		var sub *tree
		if p.item == nil || p.content {
			sub = &tree{kind: structure, fixed: true, kids: []kid{{contentElem, &tree{kind: leaf, value: item}}}}
		} else {
			sub = p.item.flatten(item)
		}
		t.kids = append(t.kids, kid{itemElem + unique(seen, p.key(item)), sub})
	}
	return t
}

// key tells one item of a list from another.
func (p *plan) key(item reflect.Value) string {
	if p.item == nil {
		return string(appendKey(nil, item))
	}
	var key []byte
	for _, index := range p.keys {
		key = appendKey(key, field(item, index))
	}
	return string(key)
}

func appendKey(key []byte, v reflect.Value) []byte {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	var text string
	switch v.Kind() {
	case reflect.String:
		text = v.String()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		text = strconv.FormatInt(v.Int(), 10)
	default:
		text = fmt.Sprint(v.Interface())
	}
	return appendKeyText(key, text)
}

func appendKeyText(key []byte, text string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(text))), text...)
}

// unique tells items of one key apart, which the API allows in places, by how
// many came before. seen counts them.
func unique(seen map[string]int, key string) string {
	n := seen[key]
	seen[key] = n + 1
	if n > 0 {
		key += "#" + strconv.Itoa(n)
	}
	return key
}

// build sets dst, which is zero, to what t says.
func (p *plan) build(t *tree, dst reflect.Value) error {
	if t == nil {
		return nil
	}
	if t.kind != p.kind {
		return fmt.Errorf("build %s: %w", dst.Type(), errShape)
	}
	switch p.kind {
	case structure:
		if p.pointer {
			dst.Set(reflect.New(dst.Type().Elem()))
			dst = dst.Elem()
		}
		return p.buildFields(t, dst)
	case mapping:
		return buildMap(t, dst)
	case list:
		return p.buildList(t, dst)
	}
	return assign(dst, t.value)
}

func (p *plan) buildFields(t *tree, dst reflect.Value) error {
	for _, k := range t.kids {
		i, ok := slices.BinarySearchFunc(p.fields.sorted, k.elem, func(f planField, elem string) int { return strings.Compare(f.elem, elem) })
		if !ok {
			return fmt.Errorf("build %s: no field %q: %w", dst.Type(), k.elem, errShape)
		}
		f := &p.fields.sorted[i]
		if err := f.plan.build(k.tree, field(dst, f.index)); err != nil {
			return err
		}
	}
	return nil
}

func buildMap(t *tree, dst reflect.Value) error {
	if len(t.kids) == 0 {
		return nil
	}
	m := reflect.MakeMapWithSize(dst.Type(), len(t.kids))
	for _, k := range t.kids {
		if k.kind != leaf || k.value.Type() != dst.Type().Elem() {
			return fmt.Errorf("build %s: %w", dst.Type(), errShape)
		}
		m.SetMapIndex(reflect.ValueOf(strings.TrimPrefix(k.elem, fieldElem)).Convert(dst.Type().Key()), k.value)
	}
	dst.Set(m)
	return nil
}

func (p *plan) buildList(t *tree, dst reflect.Value) error {
	if len(t.kids) == 0 {
		return nil
	}
	items := reflect.MakeSlice(dst.Type(), len(t.kids), len(t.kids))
	for i, k := range t.kids {
		var err error
		switch {
		case p.item != nil && !p.content:
			err = p.item.build(k.tree, items.Index(i))
		case k.find(contentElem) == nil:
			err = fmt.Errorf("build %s: %w", dst.Type(), errShape)
		default:
			err = assign(items.Index(i), k.find(contentElem).value)
		}
		if err != nil {
			return err
		}
	}
	dst.Set(items)
	return nil
}

func assign(dst, v reflect.Value) error {
	if !v.IsValid() || v.Type() != dst.Type() {
		return fmt.Errorf("set %s: %w", dst.Type(), errShape)
	}
	dst.Set(v)
	return nil
}
