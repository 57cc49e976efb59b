package fields_test

import (
	"bytes"
	"testing"

	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"shoal/api/fields"
	"shoal/store"
)

// FuzzJoin: whatever arrives from a peer, joining gives a value or an error,
// and the same both times.
func FuzzJoin(f *testing.F) {
	m := fields.New(clientscheme.Scheme)
	for _, p := range pairs(f) {
		set, _ := m.Changed(p.key, p.before, p.after)
		f.Add(p.before, p.after, set, set)
		f.Add(p.before, []byte(nil), set, []byte{1})
	}
	object := []byte(`{"metadata":{"labels":{"a":"b"},"finalizers":["x","x"],"generation":2},"status":{"conditions":[{"type":"A"},{"type":"A"},3,null]}}`)
	f.Add(object, []byte(`{"metadata":null,"status":[],"spec":{"a":{}}}`), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, before, after, x, y []byte) {
		const key = "/registry/things/x"
		changed, _ := m.Changed(key, before, after)
		m.Subtract(m.Union(x, y), changed)
		writes := []store.Stamp{{Time: 2}, {Time: 3}, {Time: 4}}
		base := store.Record{Value: before, Stamps: []store.Stamp{{Time: 2, Fields: x}}}
		other := store.Record{Value: after, Stamps: []store.Stamp{{Time: 3, Fields: y}, {Time: 4, Fields: changed}}}
		v, sets, err := m.Join(key, &base, &other, writes)
		if err != nil {
			return
		}
		w, again, err := m.Join(key, &base, &other, writes)
		if err != nil || !bytes.Equal(v, w) {
			t.Fatalf("joined to %q and then to %q, %v", v, w, err)
		}
		for i := range sets {
			if !bytes.Equal(sets[i], again[i]) {
				t.Fatalf("set %d is %q and then %q", i, sets[i], again[i])
			}
		}
	})
}
