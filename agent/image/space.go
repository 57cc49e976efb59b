package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultReserve stays free on the file system of images: the store, when
	// it is on the same one, stops writing below 128 MiB, and running pods
	// need some too.
	DefaultReserve = 256 << 20
	// unpackedPer is how many bytes a byte of a layer becomes: gzip makes
	// root file systems two to three times smaller.
	unpackedPer = 2
)

// errNoSpace says that the disk has too little room for an image.
var errNoSpace = errors.New("no space left for images")

func isNoSpace(err error) bool {
	// containerd's errors come as text.
	return errors.Is(err, errNoSpace) || errors.Is(err, unix.ENOSPC) || err != nil && strings.Contains(err.Error(), unix.ENOSPC.Error())
}

// fsRoot is where containerd keeps snapshots; asked for once.
type fsRoot struct {
	mu   sync.Mutex
	path string // guarded by mu
}

// Root is the directory in which containerd keeps snapshots; empty if it does not
// say. What it said once stays true.
func (s *Store) Root(ctx context.Context) string {
	s.root.mu.Lock()
	defer s.root.mu.Unlock()
	if s.root.path != "" {
		return s.root.path
	}
	answer, err := s.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+s.snapshotter)
	if err != nil {
		return ""
	}
	for _, p := range answer.Plugins {
		if root := p.Exports["root"]; root != "" {
			s.root.path = root
		}
	}
	return s.root.path
}

// FSStats is the size and the free space, in bytes, of the file system of
// images; ok is false where containerd does not say where it is.
func (s *Store) FSStats(ctx context.Context) (capacity, available int64, ok bool) {
	root := s.Root(ctx)
	var fs unix.Statfs_t
	if root == "" || unix.Statfs(root, &fs) != nil {
		return 0, 0, false
	}
	return int64(fs.Blocks) * fs.Bsize, int64(fs.Bavail) * fs.Bsize, true
}

// reserve is never more than a tenth of a small disk.
func (s *Store) reserve(capacity int64) int64 { return min(s.o.ReserveBytes, capacity/10) }

// makeRoom refuses to begin with layers of that size, compressed, which the disk
// cannot take. It collects images first if that may help.
func (s *Store) makeRoom(ctx context.Context, layers int64) error {
	if layers == 0 {
		return nil
	}
	need := layers * (1 + unpackedPer)
	capacity, available, ok := s.FSStats(ctx)
	if !ok || available-need >= s.reserve(capacity) {
		return nil
	}
	if _, err := s.Collect(ctx, need+s.reserve(capacity)-available); err != nil {
		s.o.Logger.Warn("images could not be collected to make room for another", "error", err)
	}
	capacity, available, ok = s.FSStats(ctx)
	if !ok || available-need >= s.reserve(capacity) {
		return nil
	}
	return fmt.Errorf("%w: it needs about %s unpacked, and %s has %s free, of which %s are kept; remove images with `shoal image rm`, or make room",
		errNoSpace, humanBytes(need), s.root.path, humanBytes(available), humanBytes(s.reserve(capacity)))
}

// guardEvery is how often the disk is looked at while images are written: what
// fast disks take in that time is a small part of the reserve.
const guardEvery = 20 * time.Millisecond

// guard returns a context that ends, with the reason as its cause, before what is
// written under it fills the disk: unpacking is containerd's work, and on a full
// disk containerd cannot even remove what it has unpacked. stop ends the guard.
func (s *Store) guard(ctx context.Context) (guarded context.Context, stop func()) {
	guarded, cancel := context.WithCancelCause(ctx)
	s.Root(ctx) // known from here on
	capacity, before, ok := s.FSStats(ctx)
	if !ok {
		return guarded, func() { cancel(nil) }
	}
	// What needs no room goes on, also on a disk that is nearly full.
	least := min(s.reserve(capacity), before-s.reserve(capacity)/4)
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(guardEvery)
		defer tick.Stop()
		for {
			select {
			case <-guarded.Done():
				return
			case <-tick.C:
				if _, available, ok := s.FSStats(guarded); ok && available < least {
					cancel(s.tooLittle(available, capacity))
				}
			}
		}
	})
	return guarded, func() {
		cancel(nil)
		watching.Wait()
	}
}

func (s *Store) tooLittle(available, capacity int64) error {
	return fmt.Errorf("%w: %s has %s free, and %s are kept for what runs; remove images with `shoal image rm`, or make room",
		errNoSpace, s.Root(context.Background()), humanBytes(available), humanBytes(s.reserve(capacity)))
}

// checkReserve ends a transfer before the disk is full.
func (s *Store) checkReserve() error {
	capacity, available, ok := s.FSStats(context.Background()) // known by now: no call
	if !ok || available >= s.reserve(capacity) {
		return nil
	}
	return s.tooLittle(available, capacity)
}

func humanBytes(n int64) string {
	value := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if value < 1024 {
			return fmt.Sprintf("%.4g %s", value, unit)
		}
		value /= 1024
	}
	return fmt.Sprintf("%.4g TiB", value)
}
