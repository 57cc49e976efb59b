package store

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"shoal/store/vector"
)

// ErrGone says that some dots are not logged one by one any more: who lacks
// them reconciles sets.
var ErrGone = errors.New("the log does not reach back so far")

// Deltas returns the states under the dots in want that are held here and
// logged, up to maxBytes of them and one at least, and in covered the dots of
// want they answer. Dots that are not held are passed over in silence; where
// one is held and not logged, err is ErrGone beside what there is.
func (r *Replica) Deltas(want vector.Vector, maxBytes int) (deltas []Delta, covered vector.Vector, err error) {
	dots, gone := r.loggedOf(want, maxBytes)
	covered = vector.Vector{}
	byKey := make(map[string]int)
	bytes := 0
	for _, d := range dots {
		i, ok := byKey[d.key]
		if ok && d.key != "" && len(deltas[i].Also) < maxAlso {
			deltas[i].Also = append(deltas[i].Also, d.dot)
		} else {
			if bytes >= maxBytes {
				break
			}
			delta, err := r.stateOf(d.key)
			if err != nil {
				return nil, nil, err
			}
			delta.Dot = d.dot
			byKey[d.key] = len(deltas)
			deltas = append(deltas, delta)
			bytes += len(d.key) + len(delta.Record.Value) + recordOverhead
		}
		if _, err := covered.Add(d.dot.Actor, d.dot.Sequence); err != nil {
			break
		}
	}
	if gone {
		err = ErrGone
	}
	return deltas, covered, err
}

// dotBytes is the least a dot takes in an answer.
const dotBytes = 16

func (r *Replica) loggedOf(want vector.Vector, maxBytes int) (dots []loggedDot, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range slices.Sorted(maps.Keys(want)) {
		list := r.log.actors[a]
		for _, span := range want[a] {
			at, _ := position(list, span.First)
			var found uint64
			for ; at < len(list) && list[at].sequence <= span.Last; at++ {
				if len(dots) > maxBytes/dotBytes {
					return dots, gone
				}
				dots = append(dots, loggedDot{Dot{Actor: a, Sequence: list[at].sequence}, list[at].key})
				found++
			}
			var held uint64
			for _, s := range r.vector.Intersect(a, span) {
				held += s.Last - s.First + 1
			}
			gone = gone || held > found
		}
	}
	return dots, gone
}

// stateOf returns what is under a key: a void delta where nothing is any more,
// because it ended or was reaped, in which case every member has it.
func (r *Replica) stateOf(key string) (Delta, error) {
	if key == "" || r.o.Faults.VoidState && len(key)%2 == 0 {
		return Delta{}, nil
	}
	found, err := r.disk.Get(key)
	if errors.Is(err, ErrNotFound) {
		return Delta{}, nil
	}
	if err != nil {
		return Delta{}, err
	}
	e, err := found.entry()
	if err != nil {
		return Delta{}, err
	}
	return Delta{Key: key, Record: e.Record}, nil
}

// States returns the states under keys, without dots. Keys that have none, or
// do not leave this host, are left out.
func (r *Replica) States(keys []string) ([]Delta, error) {
	states := make([]Delta, 0, len(keys))
	for _, key := range keys {
		if checkKey(key) != nil || ScopeOf(key) == HostScope {
			continue
		}
		d, err := r.stateOf(key)
		if err != nil {
			return nil, err
		}
		if !d.Void() {
			states = append(states, d)
		}
	}
	return states, nil
}

// Digests returns the digest of all that is to be the same on every peer,
// sorted by key, with a vector and a floor that it covers. Stable tombstones
// are left out: every member has had them, and States has them still.
func (r *Replica) Digests() ([]KeyDigest, vector.Vector, uint64, error) {
	r.mu.Lock()
	v, floor := r.frontierLocked().vector, r.floor
	r.mu.Unlock()
	stable, now := r.Stable(), microseconds(r.o.Clock.Now())
	var digests []KeyDigest
	err := r.scanStates(func(s Stored) error {
		if s.Meta&metaTombstone != 0 && s.Version <= stable {
			return nil
		}
		if s.Meta&metaExpires != 0 {
			e, err := s.entry()
			if err != nil {
				return err
			}
			if e.ExpiresMicros <= now { // as it soon will be here
				t := ended(&e.Record)
				digests = append(digests, KeyDigest{s.Key, DigestOf(s.Key, &t)})
				return nil
			}
		}
		d, err := storedDigest(s.Key, s.Value)
		if err == nil {
			digests = append(digests, KeyDigest{s.Key, d})
		}
		return err
	})
	if !slices.IsSortedFunc(digests, func(a, b KeyDigest) int { return cmp.Compare(a.Key, b.Key) }) {
		return nil, nil, 0, errors.Join(err, errors.New("list digests: the disk is not in order"))
	}
	return digests, v, floor, err
}

// Snapshot yields every state, without dots, and returns a vector and a floor
// that they cover. A delta is valid until yield returns.
func (r *Replica) Snapshot(yield func(Delta) error) (vector.Vector, uint64, error) {
	r.mu.Lock()
	v, floor := r.frontierLocked().vector, r.floor
	r.mu.Unlock()
	err := r.scanStates(func(s Stored) error {
		e, err := s.entry()
		if err != nil {
			return err
		}
		return yield(Delta{Key: e.Key, Record: e.Record})
	})
	return v, floor, err
}

// scanStates visits what leaves this host, as of now or later.
func (r *Replica) scanStates(visit func(Stored) error) error {
	var failed error
	err := r.disk.Scan("/", func(s Stored) bool {
		if ScopeOf(s.Key) != HostScope {
			failed = visit(s)
		}
		return failed == nil
	})
	return errors.Join(err, failed)
}
