package store

import "sync/atomic"

// counters are kept current by the committer and read by Stats.
type counters struct {
	records, tombstones atomic.Int64
	writes, syncs       atomic.Uint64
	lostWrites          uint64 // does not change once open
}

func (c *counters) changed(ch *change) {
	if ch.kind == padding {
		return
	}
	c.writes.Add(1)
	switch {
	case ch.before == nil:
	case ch.before.Live():
		c.records.Add(-1)
	default:
		c.tombstones.Add(-1)
	}
	switch {
	case ch.erase:
	case ch.after.Live():
		c.records.Add(1)
	default:
		c.tombstones.Add(1)
	}
}

// Stats is what a monitoring page wants to know of the database.
type Stats struct {
	Version, Horizon Version
	// Records are live, Tombstones deleted and not yet reaped, Expiring those
	// with a time to live.
	Records, Tombstones int64
	Expiring            int
	// Writes committed since Open, and group commits they took.
	Writes, Syncs uint64
	// DiskBytes: the tables, and the value log as badger last measured it
	// (about once a minute). NewTables of them are not yet merged.
	DiskBytes int64
	NewTables int
	// Watchers open, and changes the log can still tell them.
	Watchers, WatchLogEvents int
	// Refusing: writes are refused for want of disk space.
	Refusing bool
	// Actor is this peer's incarnation, Dots how many deltas it holds,
	// LoggedDots how many of them it can give to others one by one.
	Actor      Actor
	Dots       uint64
	LoggedDots int
	// HeldBack deltas are from the future; Stable is the version up to which
	// every member has everything.
	HeldBack int
	Stable   Version
	// LostWrites of this peer were answered before and were gone when the
	// database was opened.
	LostWrites uint64
}

// Stats returns current figures; it is cheap.
func (db *DB) Stats() Stats {
	_, values := db.badger.Size()
	fresh, tables := db.tables()
	s := Stats{
		Version:    db.Version(),
		Horizon:    db.Horizon(),
		Records:    db.counts.records.Load(),
		Tombstones: db.counts.tombstones.Load(),
		Expiring:   db.ttl.len(),
		Writes:     db.counts.writes.Load(),
		Syncs:      db.counts.syncs.Load(),
		DiskBytes:  tables + values,
		NewTables:  fresh,
		Refusing:   db.space.refusing.Load(),
		LostWrites: db.counts.lostWrites,
	}
	s.Watchers, s.WatchLogEvents = db.events.size()
	s.Actor, s.Dots, s.LoggedDots = db.replica.Actor(), db.replica.Vector().Count(), db.replica.logged()
	s.HeldBack, s.Stable = db.replica.HeldBack(), db.replica.Stable()
	return s
}

func (l *watchLog) size() (watchers, events int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count, int(l.next - l.first)
}
