package storage

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"k8s.io/apiserver/pkg/storage"

	"shoal/store"
)

// sizeEstimate is a moving average of object sizes, of what lists read. The
// server weighs the cost of lists by it.
type sizeEstimate struct {
	mu      sync.Mutex
	enabled bool
	average atomic.Int64
}

// note takes one object's size into the average, with weight 1/8. Two notes at
// once may lose one, which an estimate bears.
func (e *sizeEstimate) note(bytes int) {
	old := e.average.Load()
	if old == 0 {
		e.average.Store(int64(bytes))
		return
	}
	e.average.Store(old + (int64(bytes)-old)/8)
}

// EnableResourceSizeEstimation makes Stats report the average size. The keys
// function is not needed, but its absence is a mistake of the caller's.
func (s *Storage) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	if keys == nil {
		return errors.New("enable size estimation: no function for keys given")
	}
	s.sizes.mu.Lock()
	defer s.sizes.mu.Unlock()
	if s.sizes.enabled {
		return errors.New("enable size estimation: already enabled")
	}
	s.sizes.enabled = true
	return nil
}

// Stats counts the objects.
func (s *Storage) Stats(context.Context) (storage.Stats, error) {
	prefix, err := s.key(s.resourcePrefix, true)
	if err != nil {
		return storage.Stats{}, err
	}
	count, err := s.db.Count(store.Range{Prefix: prefix}, store.Latest, 0)
	if err != nil {
		return storage.Stats{}, fromStore(prefix, err)
	}
	stats := storage.Stats{ObjectCount: count}
	s.sizes.mu.Lock()
	defer s.sizes.mu.Unlock()
	if s.sizes.enabled && count > 0 {
		stats.EstimatedAverageObjectSizeBytes = s.sizes.average.Load()
	}
	return stats, nil
}
