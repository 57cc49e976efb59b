package sim

import (
	"errors"
	"maps"
	"slices"
	"sort"
	"strings"

	"shoal/store"
)

var (
	errCrashed = errors.New("the host crashed")
	errFull    = errors.New("no space left on the disk")
)

// journalCommits is how many of the latest commits a lying disk may lose.
const journalCommits = 64

// disk is a fake store.Disk. What it holds is only changed one write at a time,
// so that a crash or a full disk leaves any prefix of a commit.
type disk struct {
	values map[string]store.Stored
	keys   []string // sorted
	newest store.Version
	// stopAfter, if not negative, is how many more writes land before failure
	// with stopWith; a crash then ends all use of this disk's handle.
	stopAfter int
	stopWith  error
	crashed   bool
	// journal is what undoes the latest commits.
	journal [][]undo
	// changed is told of each write that lands, before it does.
	changed func(was *store.Stored, w *store.Write)
}

type undo struct {
	key    string
	was    *store.Stored
	newest store.Version
}

func newDisk() *disk { return &disk{values: make(map[string]store.Stored), stopAfter: -1} }

// Newest implements store.Disk.
func (d *disk) Newest() store.Version { return d.newest }

// Get implements store.Disk.
func (d *disk) Get(key string) (store.Stored, error) {
	if d.crashed {
		return store.Stored{}, errCrashed
	}
	s, ok := d.values[key]
	if !ok {
		return s, store.ErrNotFound
	}
	return s, nil
}

// Scan implements store.Disk.
func (d *disk) Scan(prefix string, visit func(store.Stored) bool) error {
	if d.crashed {
		return errCrashed
	}
	for i := sort.SearchStrings(d.keys, prefix); i < len(d.keys) && strings.HasPrefix(d.keys[i], prefix); i++ {
		if !visit(d.values[d.keys[i]]) {
			return nil
		}
	}
	return nil
}

// Commit implements store.Disk.
func (d *disk) Commit(writes []store.Write) error {
	if d.crashed {
		return errCrashed
	}
	d.journal = append(d.journal, nil)
	if len(d.journal) > journalCommits {
		d.journal = slices.Delete(d.journal, 0, 1)
	}
	for i := range writes {
		if d.stopAfter == 0 {
			return d.stop()
		}
		if d.stopAfter > 0 {
			d.stopAfter--
		}
		d.land(&writes[i])
	}
	if d.stopAfter == 0 {
		// All is there, and nobody was told.
		return d.stop()
	}
	return nil
}

func (d *disk) stop() error {
	err := d.stopWith
	d.stopAfter = -1
	d.crashed = err == errCrashed
	return err
}

func (d *disk) land(w *store.Write) {
	var was *store.Stored
	if s, ok := d.values[w.Key]; ok {
		was = &s
	}
	last := len(d.journal) - 1
	d.journal[last] = append(d.journal[last], undo{w.Key, was, d.newest})
	d.newest = max(d.newest, w.Version)
	if d.changed != nil {
		d.changed(was, w)
	}
	if w.Erase {
		d.remove(w.Key)
		return
	}
	d.set(store.Stored{Key: w.Key, Meta: w.Meta, Version: w.Version, Value: w.Value})
}

func (d *disk) set(s store.Stored) {
	if _, ok := d.values[s.Key]; !ok {
		d.keys = slices.Insert(d.keys, sort.SearchStrings(d.keys, s.Key), s.Key)
	}
	d.values[s.Key] = s
}

func (d *disk) remove(key string) {
	if _, ok := d.values[key]; ok {
		delete(d.values, key)
		i := sort.SearchStrings(d.keys, key)
		d.keys = slices.Delete(d.keys, i, i+1)
	}
}

// lose undoes the latest commits although they were synced, and returns the
// keys touched.
func (d *disk) lose(commits int) []string {
	touched := make(map[string]bool)
	for range min(commits, len(d.journal)) {
		last := len(d.journal) - 1
		for _, u := range slices.Backward(d.journal[last]) {
			touched[u.key] = true
			d.newest = u.newest
			if u.was == nil {
				d.remove(u.key)
			} else {
				d.set(*u.was)
			}
		}
		d.journal = d.journal[:last]
	}
	return slices.Sorted(maps.Keys(touched))
}

// reopen is what a restart finds.
func (d *disk) reopen() { d.crashed, d.stopAfter = false, -1 }
