package stream

import (
	"net"
	"slices"
	"sync"
)

// handshakes are the connections that have not proved themselves yet, the
// oldest first.
type handshakes struct {
	mu   sync.Mutex
	open []net.Conn // guarded by mu
}

// add makes room by closing the oldest. It never blocks, so that who only takes
// up places keeps nobody from getting in.
func (h *handshakes) add(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.open) >= maxHandshakes {
		h.open[0].Close()
		h.open = slices.Delete(h.open, 0, 1)
	}
	h.open = append(h.open, c)
}

func (h *handshakes) done(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.open, c); i >= 0 {
		h.open = slices.Delete(h.open, i, i+1)
	}
}
