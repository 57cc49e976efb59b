package storage

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Set is the storages a Decorator made, one per resource served. The zero Set
// is empty and ready.
type Set struct {
	mu sync.Mutex
	// byResource is guarded by mu.
	byResource map[schema.GroupResource]*Storage
}

// Get returns the storage of a resource, nil if there is none.
func (t *Set) Get(resource schema.GroupResource) *Storage {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byResource[resource]
}

func (t *Set) add(s *Storage) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byResource == nil {
		t.byResource = map[schema.GroupResource]*Storage{}
	}
	t.byResource[s.resource] = s
}

// remove takes s out, unless another took its place: a custom resource whose
// definition changes gets a new storage before the old one goes.
func (t *Set) remove(s *Storage) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byResource[s.resource] == s {
		delete(t.byResource, s.resource)
	}
}
