package storage

import (
	"context"
	"errors"

	"k8s.io/apiserver/pkg/storage"

	"shoal/store"
)

// EnableResourceSizeEstimation makes Stats report the average size, by which
// the server weighs the cost of lists. The keys are at hand here without the
// function given, but its absence is a mistake of the caller's.
func (s *Storage) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	if keys == nil {
		return errors.New("enable size estimation: no function for keys given")
	}
	if !s.measured.CompareAndSwap(false, true) {
		return errors.New("enable size estimation: already enabled")
	}
	return nil
}

// Stats counts the objects and, if enabled, their average size as stored.
func (s *Storage) Stats(context.Context) (storage.Stats, error) {
	prefix, err := s.key(s.resourcePrefix, true)
	if err != nil {
		return storage.Stats{}, err
	}
	all := store.Range{Prefix: prefix}
	if !s.measured.Load() {
		count, err := s.db.Count(all, store.Latest)
		return storage.Stats{ObjectCount: count}, fromStore(prefix, err)
	}
	count, bytes, err := s.db.Measure(all, store.Latest)
	if err != nil || count == 0 {
		return storage.Stats{}, fromStore(prefix, err)
	}
	return storage.Stats{ObjectCount: count, EstimatedAverageObjectSizeBytes: bytes / count}, nil
}
