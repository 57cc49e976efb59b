//go:build linux

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"shoal/agent/cgroup"
	"shoal/store"
)

const (
	// heldLongest bounds how long pods stand still when the disk is full at a
	// start, whatever hangs in it.
	heldLongest = time.Minute
	// releaseRetry is the wait after pods could not be let go on.
	releaseRetry = 5 * time.Second
	// countedWithin bounds the search for what takes the space.
	countedWithin = 3 * time.Second
	// takersTold is how many of the largest are named.
	takersTold = 3
)

// hold is whether pods stand still.
type hold struct {
	mu    sync.Mutex
	until *time.Timer // releases them; nil: none stands still. Guarded by mu
	over  bool        // the daemon ends; guarded by mu
}

// holdPods has pods stand still: one of them may fill the disk, and would take
// what the store gives up in order to open, before anybody can evict it.
func (p *peer) holdPods(free uint64) {
	p.held.mu.Lock()
	defer p.held.mu.Unlock()
	pods, err := p.podGroups()
	if err == nil {
		err = pods.Freeze()
	}
	if err != nil {
		p.log.Warn("the disk is nearly full, and pods that may be filling it cannot be held up", "freeMiB", free>>20, "error", err)
		p.release() // those that it came to
		return
	}
	p.log.Warn("the disk is nearly full: pods stand still until the first look for what to evict", "dir", p.config.DataDir, "freeMiB", free>>20, "atMost", heldLongest)
	p.releaseIn(heldLongest)
}

// releasePods lets pods go on: those that holdPods held, and those that a daemon
// did which was killed. If that fails, it is tried again until it succeeds or
// the daemon ends.
func (p *peer) releasePods() {
	p.held.mu.Lock()
	defer p.held.mu.Unlock()
	p.release()
}

// release is called with p.held.mu held, and so is releaseIn.
func (p *peer) release() {
	pods, err := p.podGroups()
	if err == nil {
		err = pods.Thaw()
	}
	if err != nil {
		p.log.Warn("pods that stood still cannot be let go on; trying again", "in", releaseRetry, "error", err)
		p.releaseIn(releaseRetry)
		return
	}
	if p.held.until != nil {
		p.held.until.Stop()
		p.held.until = nil
	}
}

func (p *peer) releaseIn(wait time.Duration) {
	if p.held.until != nil {
		p.held.until.Stop()
		p.held.until = nil
	}
	if !p.held.over {
		p.held.until = time.AfterFunc(wait, p.releasePods)
	}
}

// noLongerHold is for the end of the daemon, however early.
func (p *peer) noLongerHold() {
	p.held.mu.Lock()
	defer p.held.mu.Unlock()
	p.held.over = true
	if p.held.until != nil {
		p.release()
	}
}

func (p *peer) podGroups() (*cgroup.Tree, error) {
	group, err := podGroup(p.config.CgroupRoot)
	if err != nil {
		return nil, err
	}
	return cgroup.Open(group)
}

// withTakers adds to a store that found no space what takes it.
func withTakers(ctx context.Context, err error, dirs ...string) error {
	if full := (*store.NoSpaceError)(nil); !errors.As(err, &full) || !full.Opening {
		return err
	}
	if largest := takers(ctx, dirs...); largest != "" {
		return fmt.Errorf("%w; the most is in %s", err, largest)
	}
	return err
}

// taker is a directory and what it takes on disk.
type taker struct {
	path  string
	bytes int64
}

// takers names the largest directories two levels below dirs, on their file
// systems, as far as they can be counted in time.
func takers(ctx context.Context, dirs ...string) string {
	ctx, cancel := context.WithTimeout(ctx, countedWithin)
	defer cancel()
	var mu sync.Mutex
	var found []taker
	var counting sync.WaitGroup
	for _, dir := range dirs {
		counting.Go(func() {
			list := countBelow(ctx, dir)
			mu.Lock()
			found = append(found, list...)
			mu.Unlock()
		})
	}
	counting.Wait()
	slices.SortFunc(found, func(a, b taker) int { return cmp.Or(cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.path, b.path)) })
	var out []string
	for _, t := range found[:min(len(found), takersTold)] {
		out = append(out, fmt.Sprintf("%s (%d MiB)", t.path, t.bytes>>20))
	}
	return strings.Join(out, ", ")
}

// countBelow sums up what lies below each second level of dir.
func countBelow(ctx context.Context, dir string) []taker {
	var top syscall.Stat_t
	if syscall.Stat(dir, &top) != nil {
		return nil
	}
	sums := map[string]int64{}
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil {
			return nil //nolint:nilerr // what is gone or not readable is not counted
		}
		var st syscall.Stat_t
		if syscall.Lstat(path, &st) != nil {
			return nil
		}
		if st.Dev != top.Dev {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		below, _ := filepath.Rel(dir, path)
		parts := strings.SplitN(below, string(os.PathSeparator), 3)
		sums[filepath.Join(dir, filepath.Join(parts[:min(len(parts), 2)]...))] += st.Blocks * 512
		return nil
	})
	var out []taker
	for path, bytes := range sums {
		out = append(out, taker{path, bytes})
	}
	return out
}
