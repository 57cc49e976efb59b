package store

// publish makes committed changes visible: reads first, then watches, so that
// who hears of a change can read it; then to other peers.
func (db *DB) publish(b *batch) {
	version := db.replica.last
	if len(b.changes) == 0 {
		db.committed.Store(uint64(version))
		return
	}
	events := make([]*Event, 0, len(b.changes))
	bytes := 0
	for i := range b.changes {
		c := &b.changes[i]
		db.counts.changed(c)
		bytes += len(c.after.Key) + len(c.stored)
		if c.kind != padding {
			db.changed.Store(uint64(c.after.Version))
		}
		if c.after.ExpiresMicros != 0 && c.after.Live() {
			db.ttl.add(expiry{key: c.after.Key, version: c.after.Version, micros: c.after.ExpiresMicros})
		}
		events = c.appendEvents(events)
	}
	db.committed.Store(uint64(version))
	db.events.publish(events, version)
	db.wrote(bytes, version)
}

// spread hands this peer's own writes to who carries them to others.
func (db *DB) spread(b *batch) {
	if db.opts.Published == nil {
		return
	}
	var own []Delta
	for i := range b.changes {
		if c := &b.changes[i]; c.dot != (Dot{}) {
			own = append(own, Delta{Key: c.after.Key, Dot: c.dot, Record: c.after.Record})
		}
	}
	if len(own) > 0 {
		db.opts.Published(own)
	}
}

// appendEvents appends what watchers are told: nothing, where no live record
// was or is, and two events where one object takes another's name.
func (c *change) appendEvents(events []*Event) []*Event {
	wasLive := c.before != nil && c.before.Live()
	isLive := !c.erase && c.after.Live()
	if wasLive && isLive && c.gone != 0 {
		events = append(events, &Event{Key: c.after.Key, Version: c.gone, Deleted: true, Prev: c.before.Value, PrevVersion: c.before.Version})
		wasLive = false
	}
	if !wasLive && !isLive {
		return events
	}
	e := &Event{Key: c.after.Key, Version: c.after.Version, Deleted: !isLive}
	if isLive {
		e.Value = c.after.Value
	}
	if wasLive {
		e.Prev, e.PrevVersion = c.before.Value, c.before.Version
	}
	return append(events, e)
}
