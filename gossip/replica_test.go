package gossip

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	"shoal/store"
	"shoal/store/vector"
)

// replica is a whole state-based store in memory: records, a bounded log of
// dots, store.Merge.
type replica struct {
	actor   vector.Actor
	seq     uint64
	clock   uint64
	records map[string]store.Record
	log     map[store.Dot]string
	order   []store.Dot
	logMax  int
	held    vector.Vector
	floor   uint64
	reports map[vector.Actor]vector.Vector
	merged  int
	// digests is a cache.
	digests map[string]uint64
	fail    error
	// skewed makes Adopt fail so many times, as with stamps from the future.
	skewed int
}

func newReplica(actor vector.Actor, logMax int) *replica {
	return &replica{
		actor: actor, logMax: logMax, records: map[string]store.Record{}, log: map[store.Dot]string{},
		held: vector.Vector{}, reports: map[vector.Actor]vector.Vector{}, digests: map[string]uint64{},
	}
}

// note fails where the vector takes no more gaps; the dot is fetched later.
func (r *replica) note(d store.Dot, key string) error {
	if d.Sequence == 0 {
		return nil
	}
	held := r.held.Clone()
	if _, err := held.Add(d.Actor, d.Sequence); err != nil {
		return err
	}
	r.held = held
	if _, known := r.log[d]; !known {
		r.log[d] = key
		r.order = append(r.order, d)
	}
	for len(r.order) > r.logMax {
		delete(r.log, r.order[0])
		r.order = r.order[1:]
	}
	return nil
}

// write makes or changes a key; an empty value deletes it.
func (r *replica) write(key, value string) store.Delta {
	r.seq++
	r.clock++
	rec, known := r.records[key]
	stamp := store.Stamp{Time: store.HLC(r.clock), Actor: r.actor}
	switch {
	case value == "" && known && rec.Live():
		rec = store.Record{UID: rec.UID, CausalLength: rec.CausalLength + 1, Stamps: []store.Stamp{stamp}}
	case value == "":
		rec = store.Record{UID: "none", CausalLength: max(2, rec.CausalLength), Stamps: []store.Stamp{stamp}}
	case known && rec.Live():
		rec.Value, rec.Stamps = []byte(value), []store.Stamp{stamp}
	default:
		rec = store.Record{UID: fmt.Sprintf("%x-%d", r.actor, r.seq), CausalLength: rec.CausalLength + 1,
			Born: stamp, Stamps: []store.Stamp{stamp}, Value: []byte(value)}
	}
	r.put(key, rec)
	d := store.Delta{Key: key, Dot: store.Dot{Actor: r.actor, Sequence: r.seq}, Record: rec}
	if err := r.note(d.Dot, key); err != nil {
		panic(err) // our own have no gaps
	}
	return d
}

func (r *replica) Actor() vector.Actor   { return r.actor }
func (r *replica) Vector() vector.Vector { return r.held }
func (r *replica) Floor() uint64         { return r.floor }

func (r *replica) VectorDigest() uint64 {
	h := fnv.New64a()
	h.Write(vector.AppendVector(nil, r.held))
	return h.Sum64()
}

func (r *replica) put(key string, rec store.Record) {
	r.records[key] = rec
	delete(r.digests, key)
}

func (r *replica) digest(key string, rec store.Record) uint64 {
	d, ok := r.digests[key]
	if !ok {
		d = digestOf(key, rec)
		r.digests[key] = d
	}
	return d
}

func digestOf(key string, rec store.Record) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key))
	h.Write(store.AppendRecord(nil, &rec))
	return h.Sum64()
}

func (r *replica) Fingerprints() (f store.Fingerprints) {
	for k, rec := range r.records {
		if rec.Live() {
			d := r.digest(k, rec)
			f[byte(d)] += d
		}
	}
	return f
}

func (r *replica) Report(peer vector.Actor, v vector.Vector) { r.reports[peer] = v }

func (r *replica) Merge(_ context.Context, deltas []store.Delta) error {
	if r.fail != nil {
		return r.fail
	}
	for _, d := range deltas {
		r.merged++
		if !d.Void() {
			rec := d.Record
			if old, ok := r.records[d.Key]; ok {
				rec, _ = store.Merge(old, rec)
			}
			r.put(d.Key, rec)
			r.clock = max(r.clock, uint64(rec.Stamp().Time))
		}
		for _, dot := range d.Dots() {
			if err := r.note(dot, d.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *replica) Deltas(want vector.Vector, maxBytes int) ([]store.Delta, vector.Vector, error) {
	var deltas []store.Delta
	var gone error
	covered := vector.Vector{}
	n := 0
	for _, a := range slices.Sorted(maps.Keys(want)) {
		for _, s := range want[a] {
			for q := s.First; q <= s.Last; q++ {
				dot := store.Dot{Actor: a, Sequence: q}
				key, ok := r.log[dot]
				if !ok {
					if r.held.Has(a, q) {
						gone = store.ErrGone
					}
					continue
				}
				d := store.Delta{Key: key, Dot: dot, Record: r.records[key]}
				if n > 0 && n+size(&d) > maxBytes {
					return deltas, covered, gone
				}
				n += size(&d)
				deltas = append(deltas, d)
				if _, err := covered.Add(a, q); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	return deltas, covered, gone
}

func (r *replica) Digests(context.Context) ([]store.KeyDigest, vector.Vector, uint64, error) {
	out := make([]store.KeyDigest, 0, len(r.records))
	for k, rec := range r.records {
		out = append(out, store.KeyDigest{Key: k, Digest: store.Digest(r.digest(k, rec))})
	}
	slices.SortFunc(out, func(a, b store.KeyDigest) int { return cmp.Compare(a.Key, b.Key) })
	return out, r.held, r.floor, nil
}

func (r *replica) States(keys []string) ([]store.Delta, error) {
	var out []store.Delta
	for _, k := range keys {
		if rec, ok := r.records[k]; ok {
			out = append(out, store.Delta{Key: k, Record: rec})
		}
	}
	return out, nil
}

func (r *replica) Snapshot(_ context.Context, yield func(store.Delta) error) (vector.Vector, uint64, error) {
	for _, k := range slices.Sorted(maps.Keys(r.records)) {
		if err := yield(store.Delta{Key: k, Record: r.records[k]}); err != nil {
			return nil, 0, err
		}
	}
	return r.held, r.floor, nil
}

func (r *replica) Adopt(_ context.Context, v vector.Vector, floor uint64) error {
	if r.skewed > 0 && len(v) > 0 {
		r.skewed--
		return store.ErrHeldBack
	}
	held := r.held.Clone()
	if err := held.Merge(v); err != nil {
		return err
	}
	r.held, r.floor = held, max(r.floor, floor)
	return nil
}

// state is all there is, for comparison.
func (r *replica) state() string {
	h := fnv.New64a()
	for _, k := range slices.Sorted(maps.Keys(r.records)) {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], r.digest(k, r.records[k]))
		h.Write(b[:])
	}
	return fmt.Sprintf("%d records %x", len(r.records), h.Sum64())
}
