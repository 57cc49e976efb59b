package netdp

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// mapWriteErrors counts writes to kernel maps that failed, of this process.
var mapWriteErrors atomic.Uint64

// withoutRoom are services that a full map kept out, by key, with the reason.
type withoutRoom struct {
	mu       sync.Mutex // guards services
	services map[string]string
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
