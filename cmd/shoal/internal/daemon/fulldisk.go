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
	// countedWithin bounds the search for what takes the space.
	countedWithin = 3 * time.Second
	// takersTold is how many of the largest are named.
	takersTold = 3
)

// holdPods has pods stand still: one of them may fill the disk, and would take
// what the store gives up in order to open, before anybody can evict it.
func (p *peer) holdPods(free uint64) {
	pods, err := p.podGroups()
	if err == nil {
		err = pods.Freeze()
	}
	if err != nil {
		p.log.Warn("the disk is nearly full, and pods that may be filling it cannot be held up", "freeMiB", free>>20, "error", err)
		return
	}
	p.log.Warn("the disk is nearly full: pods stand still until the first look for what to evict", "dir", p.config.DataDir, "freeMiB", free>>20, "atMost", heldLongest)
	p.held = time.AfterFunc(heldLongest, p.releasePods)
}

// releasePods lets pods go on: those that holdPods held, and those that a daemon
// did which was killed.
func (p *peer) releasePods() {
	pods, err := p.podGroups()
	if err == nil {
		err = pods.Thaw()
	}
	if err != nil {
		p.log.Warn("let pods go on", "error", err)
	}
}

// noLongerHold is for the end of the daemon, however early.
func (p *peer) noLongerHold() {
	if p.held != nil && p.held.Stop() {
		p.releasePods()
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
