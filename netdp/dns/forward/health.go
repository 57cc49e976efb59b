package forward

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// health remembers which servers did not answer lately.
type health struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time // asked last until then; guarded by mu
}

// maxRemembered bounds it: servers come from resolv.conf and flags, and what is
// there no more is forgotten with the rest.
const maxRemembered = 256

func (h *health) note(server netip.AddrPort, answered bool, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case answered:
		delete(h.until, server)
	case len(h.until) >= maxRemembered:
		clear(h.until)
		fallthrough
	default:
		h.until[server] = now.Add(avoidFor)
	}
}

// sorted puts servers that failed lately behind the others.
func (h *health) sorted(servers []netip.AddrPort, now time.Time) []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.until) == 0 {
		return servers
	}
	out := slices.Clone(servers)
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int {
		x, y := now.Before(h.until[a]), now.Before(h.until[b])
		switch {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
	return out
}
