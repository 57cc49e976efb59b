package store

import "shoal/store/vector"

// What a DB's committer does in groups, one at a time: for who drives a Replica
// from a single goroutine. Each commits to the disk before it returns.

// Write makes one write of this peer's own and returns the delta that others
// are to be given. The errors are those of DB.Update.
func (r *Replica) Write(u Update) (Entry, Delta, error) {
	if err := checkUpdate(&u); err != nil {
		return Entry{}, Delta{}, err
	}
	p := &pending{update: u}
	b, err := r.single(p)
	if err != nil {
		return Entry{}, Delta{}, err
	}
	d := Delta{Key: p.answer.Key, Record: p.answer.Record}
	if len(b.changes) > 0 {
		d.Dot = b.changes[0].dot
	}
	return p.answer, d, nil
}

// Merge takes deltas of other peers in.
func (r *Replica) Merge(deltas []Delta) error {
	_, err := r.single(&pending{kind: merging, deltas: deltas})
	return err
}

// Adopt notes all dots of v as held, after what they cover was merged.
func (r *Replica) Adopt(v vector.Vector, floor uint64) error {
	_, err := r.single(&pending{kind: adopting, adopt: &checkpoint{vector: v, floor: floor}})
	return err
}

// Reincarnate makes this peer a new actor, if it still is the one named.
func (r *Replica) Reincarnate(was Actor) error {
	_, err := r.single(&pending{kind: reincarnating, actor: was})
	return err
}

// Release merges what was held back and is due, and settles what is to be.
func (r *Replica) Release() error {
	_, err := r.single(&pending{kind: releasing})
	return err
}

// Reap removes stable tombstones, at most limit.
func (r *Replica) Reap(limit int) error {
	stable := r.Stable()
	return r.eraseWhere(reap, limit, func(s *Stored) bool { return s.Meta&metaTombstone != 0 && s.Version <= stable })
}

// Expire ends records whose time has come, at most limit.
func (r *Replica) Expire(limit int) error {
	now := microseconds(r.o.Clock.Now())
	return r.eraseWhere(endOfLife, limit, func(s *Stored) bool {
		if s.Meta&metaExpires == 0 {
			return false
		}
		e, err := s.entry()
		return err == nil && e.ExpiresMicros <= now
	})
}

func (r *Replica) eraseWhere(kind pendingKind, limit int, over func(*Stored) bool) error {
	var batch []*pending
	err := r.disk.Scan("/", func(s Stored) bool {
		if over(&s) {
			batch = append(batch, &pending{kind: kind, update: Update{Key: s.Key, Expect: s.Version, Delete: true}})
		}
		return len(batch) < limit
	})
	if err != nil || len(batch) == 0 {
		return err
	}
	_, err = r.single(batch...)
	return err
}

// Get returns the live record under key; ErrNotFound if there is none.
func (r *Replica) Get(key string) (Entry, error) {
	found, err := r.disk.Get(key)
	if err != nil {
		return Entry{}, err
	}
	e, err := found.entry()
	if err == nil && !e.Live() {
		err = ErrNotFound
	}
	return e, err
}

// Version returns the newest version given out.
func (r *Replica) Version() Version {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.committed
}

// single commits what is pending as one batch, and returns the first refusal.
func (r *Replica) single(pending ...*pending) (*batch, error) {
	b := &batch{}
	b.reset()
	for _, p := range pending {
		b.add(p)
	}
	if err := r.commit(b); err != nil {
		return b, err
	}
	for _, refused := range b.refused {
		return b, refused.err
	}
	return b, nil
}
