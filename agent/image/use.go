package image

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// usage is when images were used last and seen first, since this process
// began; the kubelet, too, forgets it with a restart.
type usage struct {
	mu    sync.Mutex
	used  map[digest.Digest]time.Time // guarded by mu
	first map[digest.Digest]time.Time // guarded by mu
}

// touch notes that an image is asked for.
func (u *usage) touch(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.used == nil {
		u.used, u.first = map[digest.Digest]time.Time{}, map[digest.Digest]time.Time{}
	}
	u.used[d] = time.Now()
}

// seen returns when an image was used last, zero for never, and first seen.
func (u *usage) seen(d digest.Digest, now time.Time) (used, first time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.used == nil {
		u.used, u.first = map[digest.Digest]time.Time{}, map[digest.Digest]time.Time{}
	}
	if u.first[d].IsZero() {
		u.first[d] = now
	}
	return u.used[d], u.first[d]
}

// keepOnly forgets images that are here no more.
func (u *usage) keepOnly(here map[digest.Digest]bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for d := range u.first {
		if !here[d] {
			delete(u.first, d)
		}
	}
	for d := range u.used {
		if !here[d] {
			delete(u.used, d)
		}
	}
}
