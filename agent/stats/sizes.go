package stats

import (
	"context"
	"sync"
	"time"

	"k8s.io/kubernetes/pkg/volume/util/fs"
)

// sizeFresh is the longest a directory's size is believed, which is the
// kubelet's too. Walking one with many files is what costs most here, so a size
// is believed for a hundred times as long as it took to count, and sizeLeast at
// least: what a pod may keep on disk is enforced by these numbers.
const (
	sizeFresh = time.Minute
	sizeLeast = 5 * time.Second
	sizeShare = 100
)

// size is what a directory holds, as du counts it.
type size struct {
	bytes, inodes uint64
	at            time.Time // when it was counted
	asked         time.Time
	fresh         time.Duration // how long it is believed
}

// sizes remembers how large directories are.
type sizes struct {
	mu    sync.Mutex
	known map[string]size   // guarded by mu
	upper map[string]string // directory by container id; guarded by mu
}

// of counts what dir holds, or tells what it did within sizeFresh.
func (s *sizes) of(dir string) (size, bool) {
	if dir == "" {
		return size{}, false
	}
	now := time.Now()
	s.mu.Lock()
	found, ok := s.known[dir]
	if ok {
		found.asked = now
		s.known[dir] = found
	}
	s.mu.Unlock()
	if ok && now.Sub(found.at) < found.fresh {
		return found, true
	}
	usage, err := fs.DiskUsage(dir)
	if err != nil {
		return size{}, false
	}
	found = size{bytes: uint64(max(usage.Bytes, 0)), inodes: uint64(max(usage.Inodes, 0)), at: now, asked: now,
		fresh: min(max(sizeShare*time.Since(now), sizeLeast), sizeFresh)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[dir] = found
	return found, true
}

// upperOf is the directory of a container's own layer.
func (r *Reader) upperOf(ctx context.Context, id string) string {
	s := &r.sizes
	s.mu.Lock()
	dir, ok := s.upper[id]
	s.mu.Unlock()
	if ok {
		return dir
	}
	if dir = r.o.Upper(ctx, id); dir != "" {
		s.mu.Lock()
		s.upper[id] = dir
		s.mu.Unlock()
	}
	return dir
}

// keep forgets containers not named, and directories nobody asks about.
func (s *sizes) keep(containers map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.upper {
		if !containers[id] {
			delete(s.upper, id)
		}
	}
	for dir, z := range s.known {
		if time.Since(z.asked) > 5*sizeFresh {
			delete(s.known, dir)
		}
	}
}
