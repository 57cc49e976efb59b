package fields

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// maxDocumentDepth leaves room below maxDepth for what a path adds at its end.
const maxDocumentDepth = maxDepth - 8

// shape says what is known of a place in a JSON object.
type shape struct {
	kind kind
	keys []string // of a list of objects; without, the list is a set
	// content: the items are one value each.
	content bool
	kids    map[string]*shape
}

// documentShape is what every object of the API has, whatever its schema says.
// All else is decided by what is there: objects branch, the rest are leaves.
// It is part of what peers agree on: to change it is to change the format.
var documentShape = &shape{kind: structure, kids: map[string]*shape{
	"metadata": {kind: structure, kids: map[string]*shape{
		"labels":          {kind: mapping},
		"annotations":     {kind: mapping},
		"finalizers":      {kind: list},
		"ownerReferences": {kind: list, keys: []string{"uid"}},
		"managedFields":   {kind: list, keys: managedFieldsKeys, content: true},
	}},
	"status": {kind: structure, kids: map[string]*shape{
		"conditions": {kind: list, keys: []string{"type"}},
	}},
}}

var managedFieldsKeys = []string{"manager", "operation", "apiVersion", "subresource"}

// parseDocument reads a JSON object, numbers as they are written.
func parseDocument(b []byte) (*tree, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("parse object: %w", err)
	}
	if d.More() || object == nil {
		return nil, fmt.Errorf("parse object: %w", errShape)
	}
	t := flattenJSON(object, documentShape, 0)
	t.fixed = true
	return t, nil
}

// encodeDocument writes what the API server's own JSON serializer would.
func encodeDocument(t *tree) ([]byte, error) {
	object, err := buildJSON(t, documentShape)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(object); err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	return out.Bytes(), nil
}

func flattenJSON(v any, s *shape, depth int) *tree {
	switch v := v.(type) {
	case map[string]any:
		if depth < maxDocumentDepth && (s == nil || s.kind != list) {
			return flattenObject(v, s, depth)
		}
	case []any:
		if s != nil && s.kind == list {
			return flattenArray(v, s, depth)
		}
	}
	return &tree{kind: leaf, value: reflect.ValueOf(&v).Elem()}
}

func flattenObject(object map[string]any, s *shape, depth int) *tree {
	t := &tree{kind: structure, kids: make([]kid, 0, len(object))}
	if s != nil && s.kind == mapping {
		if t.kind = mapping; len(object) == 0 {
			return nil
		}
	}
	for name, v := range object {
		var below *shape
		if s != nil {
			below = s.kids[name]
		}
		if sub := flattenJSON(v, below, depth+1); sub != nil {
			t.kids = append(t.kids, kid{fieldElem + name, sub})
		}
	}
	slices.SortFunc(t.kids, func(a, b kid) int { return strings.Compare(a.elem, b.elem) })
	return t
}

func flattenArray(items []any, s *shape, depth int) *tree {
	if len(items) == 0 {
		return nil
	}
	t := &tree{kind: list, kids: make([]kid, 0, len(items))}
	seen := make(map[string]int, len(items))
	for _, v := range items {
		item := &tree{kind: structure, fixed: true}
		if object, ok := v.(map[string]any); ok && s.keys != nil && !s.content {
			item = flattenObject(object, nil, depth+1)
			item.fixed = true
		} else {
			item.kids = []kid{{contentElem, &tree{kind: leaf, value: reflect.ValueOf(&v).Elem()}}}
		}
		t.kids = append(t.kids, kid{itemElem + unique(seen, s.key(v)), item})
	}
	return t
}

// key tells one item from another. A value of any kind has one: its JSON.
func (s *shape) key(v any) string {
	object, ok := v.(map[string]any)
	if !ok || s.keys == nil {
		return string(appendKeyText(nil, keyText(v)))
	}
	var key []byte
	for _, name := range s.keys {
		key = appendKeyText(key, keyText(object[name]))
	}
	return string(key)
}

func keyText(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	text, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(text)
}

func buildJSON(t *tree, s *shape) (any, error) {
	switch t.kind {
	case structure, mapping:
		object := make(map[string]any, len(t.kids))
		for _, k := range t.kids {
			name, ok := strings.CutPrefix(k.elem, fieldElem)
			if !ok {
				return nil, fmt.Errorf("build object: element %q: %w", k.elem, errShape)
			}
			var below *shape
			if s != nil {
				below = s.kids[name]
			}
			v, err := buildJSON(k.tree, below)
			if err != nil {
				return nil, err
			}
			object[name] = v
		}
		return object, nil
	case list:
		items := make([]any, 0, len(t.kids))
		for _, k := range t.kids {
			if content := k.find(contentElem); content != nil {
				items = append(items, content.value.Interface())
				continue
			}
			v, err := buildJSON(k.tree, nil)
			if err != nil {
				return nil, err
			}
			items = append(items, v)
		}
		return items, nil
	}
	return t.value.Interface(), nil
}
