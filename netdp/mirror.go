package netdp

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// mirror is a kernel map with what should be in it. A write that failed is
// tried again with the next one. Its owner guards it.
type mirror[K, V comparable] struct {
	name string
	m    *ebpf.Map
	// key and value give the map's own form, or what can be marshalled to it.
	key   func(K) any
	value func(V) any

	want, have map[K]V
	pending    map[K]struct{} // where want and have may differ
}

func newMirror[K, V comparable](name string, m *ebpf.Map, key func(K) any, value func(V) any) *mirror[K, V] {
	return &mirror[K, V]{
		name: name, m: m, key: key, value: value,
		want: map[K]V{}, have: map[K]V{}, pending: map[K]struct{}{},
	}
}

// adopt notes an entry that an earlier daemon left, as one that is wanted.
func (m *mirror[K, V]) adopt(key K, value V) { m.want[key], m.have[key] = value, value }

// set wants an entry; drop wants it gone.
func (m *mirror[K, V]) set(key K, value V) {
	m.want[key] = value
	m.mark(key)
}

func (m *mirror[K, V]) drop(key K) {
	delete(m.want, key)
	m.mark(key)
}

func (m *mirror[K, V]) mark(key K) {
	have, there := m.have[key]
	if want, wanted := m.want[key]; wanted != there || want != have {
		m.pending[key] = struct{}{}
	}
}

// setAll wants just these.
func (m *mirror[K, V]) setAll(want map[K]V) {
	for key := range m.want {
		if _, ok := want[key]; !ok {
			m.drop(key)
		}
	}
	for key, value := range want {
		m.set(key, value)
	}
}

// put writes what is wanted. changed tells whether an entry was there with
// another value.
func (m *mirror[K, V]) put() (changed bool, err error) {
	var errs []error
	for key := range m.pending {
		want, wanted := m.want[key]
		have, there := m.have[key]
		switch {
		case !wanted:
			continue
		case there && have == want:
		default:
			if err := m.m.Put(m.key(key), m.value(want)); err != nil {
				errs = append(errs, err)
				continue
			}
			m.have[key] = want
			changed = changed || there
		}
		delete(m.pending, key)
	}
	return changed, full("write "+m.name, first(errs))
}

// clear takes away what is no longer wanted.
func (m *mirror[K, V]) clear() (cleared bool, err error) {
	var errs []error
	for key := range m.pending {
		if _, wanted := m.want[key]; wanted {
			continue // a write of it failed
		}
		if err := ignoreMissing("delete", m.m.Delete(m.key(key))); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(m.have, key)
		delete(m.pending, key)
		cleared = true
	}
	return cleared, named("clear "+m.name, first(errs))
}

// first stands for all: they are of one map and mostly alike.
func first(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return errors.Join(errs[0], fmt.Errorf("and %d more", len(errs)-1))
}
