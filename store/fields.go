package store

// stampWrite returns the stamps of a live record after a write of value over
// before. Stamps that every member holds become one with the base: no write
// that could compete with them is under way any more.
func (r *Replica) stampWrite(key string, before *Entry, value []byte, stamp Stamp) []Stamp {
	if r.o.Fields == nil || r.alone() {
		return []Stamp{stamp}
	}
	was := before.Record
	if r.o.Faults.CollapseEarly || r.stable(before.Version) {
		was.Stamps = collapseStamps(was.Stamps, func(Stamp) bool { return true })
	}
	return stampFields(r.o.Fields, key, &was, value, stamp)
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
	if r.o.Fields == nil || !a.Live() || !b.Live() || a.CausalLength != b.CausalLength || a.UID != b.UID {
		return Merge(a, b)
	}
	kept, err := mergeFields(r.o.Fields, key, &a, &b)
	if err != nil {
		r.o.Logger.Debug("two states were not joined by field; the later is kept whole", "key", key, "error", err)
	}
	return kept, nil
}
