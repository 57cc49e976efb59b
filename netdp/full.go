package netdp

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// mapWriteErrors counts writes to kernel maps that failed, of this process.
var mapWriteErrors atomic.Uint64

// withoutRoom are services that a full map kept out, by key, with the reason, and
// what of network policy one did.
type withoutRoom struct {
	mu       sync.Mutex // guards the two below
	services map[string]string
	policy   string
}

// notePolicy remembers what became of the last write of policies, which tried all
// that was missing.
func (w *withoutRoom) notePolicy(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policy = ""
	if errors.Is(err, ErrFull) {
		w.policy = err.Error()
	}
}

// PolicyWithoutRoom says what of network policy is not in the kernel's maps,
// because these are full: less is allowed than should be. It is empty when all is.
func (d *Datapath) PolicyWithoutRoom() string {
	d.noRoom.mu.Lock()
	defer d.noRoom.mu.Unlock()
	return d.noRoom.policy
}

// note remembers what became of a service.
func (w *withoutRoom) note(key string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !errors.Is(err, ErrFull) {
		delete(w.services, key)
		return
	}
	if w.services == nil {
		w.services = map[string]string{}
	}
	w.services[key] = err.Error()
}

// WithoutRoom lists the keys of services that are not, or not wholly, in the
// kernel's maps, because these are full. It is empty when all are.
func (d *Datapath) WithoutRoom() []string {
	d.noRoom.mu.Lock()
	defer d.noRoom.mu.Unlock()
	out := make([]string, 0, len(d.noRoom.services))
	for key := range d.noRoom.services {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}
