package store

// FieldMerger knows the schema of what is stored, and so which fields a write
// changed and how to take single fields over. It is pure and safe for
// concurrent use. Sets of fields are encoded by it; an empty one is nil.
type FieldMerger interface {
	// Changed returns the set of fields in which after differs from before:
	// changed, added and removed ones. ok is false where the schema is unknown
	// or it is not worth it; the write then is stamped as a whole.
	Changed(key string, before, after []byte) (fields []byte, ok bool)
	// Union and Subtract combine two sets.
	Union(a, b []byte) []byte
	Subtract(a, b []byte) []byte
	// Merge returns base with the fields in take as they are in from; those
	// that from does not have are removed.
	Merge(key string, base, from []byte, take []byte) (value []byte, err error)
}

// stampWrite returns the stamps of a live record after a write of value over
// before. Stamps that every member holds have become one: no write that could
// compete with them is under way any more.
func (r *Replica) stampWrite(key string, before *Entry, value []byte, stamp Stamp) []Stamp {
	if before == nil || !before.Live() || r.o.Fields == nil || r.alone() {
		return []Stamp{stamp}
	}
	fields, ok := r.o.Fields.Changed(key, before.Value, value)
	switch {
	case !ok:
		return []Stamp{stamp}
	case len(fields) == 0:
		return before.Stamps
	}
	var stamps []Stamp
	if r.o.Faults.CollapseEarly || r.stable(before.Version) {
		latest := before.Stamp()
		stamps = append(stamps, Stamp{Time: latest.Time, Actor: latest.Actor})
	} else {
		for _, s := range before.Stamps {
			if len(s.Fields) > 0 {
				if s.Fields = r.o.Fields.Subtract(s.Fields, fields); len(s.Fields) == 0 {
					continue
				}
			}
			stamps = append(stamps, s)
		}
	}
	if len(stamps) >= maxStamps || len(fields) > maxFieldSetBytes {
		return []Stamp{stamp}
	}
	stamp.Fields = fields
	return append(stamps, stamp)
}

// mergeRecords is Merge that takes single fields over where it can.
func (r *Replica) mergeRecords(key string, a, b Record) (kept Record, displaced *Record) {
	switch f := &r.o.Faults; {
	case f.IgnoreActor && a.CausalLength == b.CausalLength && a.Born.Time == b.Born.Time && a.Stamp().Time == b.Stamp().Time:
		return a, nil
	case f.IgnoreLength && a.Stamp().Before(b.Stamp()):
		return b, nil
	case f.IgnoreLength:
		return a, nil
	}
	if r.o.Fields != nil && a.Live() && b.Live() && a.CausalLength == b.CausalLength && a.UID == b.UID {
		if merged, err := mergeFields(r.o.Fields, key, &a, &b); err == nil {
			return merged, nil
		}
	}
	return Merge(a, b)
}
