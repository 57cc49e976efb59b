package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"shoal/test/eventually"
)

// diskBytes is what the database's files occupy, apart from what the space
// guard keeps in reserve.
func diskBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var total int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		// Files come and go while this looks.
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || d.Name() == ballastFile {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			total += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// TestSpaceComesBack: overwritten and deleted objects, small ones and those in
// the value log, leave the disk once they have left the history window,
// though nothing is written any more.
func TestSpaceComesBack(t *testing.T) {
	clock := newFakeClock()
	dir := t.TempDir()
	db := openTest(t, Options{Dir: dir, Clock: clock})
	small, large := make([]byte, 50_000), make([]byte, 1_000_000)
	for i := range 600 {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/churn/%d", i%10), Expect: Any, Value: small})
	}
	for i := range 40 {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/large/%d", i%4), Expect: Any, Value: large})
	}
	for i := range 10 {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/churn/%d", i), Expect: Any, Delete: true})
	}
	before := diskBytes(t, dir)
	if before < 60_000_000 {
		t.Fatalf("only %d bytes on disk to begin with", before)
	}
	// Live are 4 MB; badger collects whole value log files, so allow for two
	// of those and its logs.
	const enough = 40_000_000
	clock.advance(defaultHistoryWindow + time.Second)
	eventually.True(t, fmt.Sprintf("shrinking from %d to %d bytes", before, enough), func() bool {
		clock.advance(maintainInterval)
		return diskBytes(t, dir) < enough
	})
	for i := range 4 {
		if e, _, err := db.Get(fmt.Sprintf("/large/%d", i), Latest); err != nil || len(e.Value) != len(large) {
			t.Errorf("large object %d has %d bytes (%v)", i, len(e.Value), err)
		}
	}
}

func TestTombstonesAreReaped(t *testing.T) {
	clock := newFakeClock()
	db := openTest(t, Options{Clock: clock})
	const many = 2*maxReapBatch + 1
	for i := range many {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/t/%d", i)})
	}
	w := watch(t, db, "/t/", db.Version())
	for i := range many {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/t/%d", i), Expect: Any, Delete: true})
	}
	takeN(t, w, many)
	if s := db.Stats(); s.Tombstones != many {
		t.Fatalf("%d tombstones, want %d", s.Tombstones, many)
	}
	clock.advance(defaultHistoryWindow + time.Second)
	eventually.True(t, "reaping", func() bool { return db.Stats().Tombstones == 0 })
	if events, _, err := w.Take(); err != nil || len(events) != 0 {
		t.Errorf("reaping told watchers %d events (%v)", len(events), err)
	}
	if e := mustUpdate(t, db, Update{Key: "/t/0"}); e.CausalLength != 3 {
		t.Errorf("created anew with causal length %d, want 3: later than what was reaped", e.CausalLength)
	}
}

func TestHistoryLeavesTheWindow(t *testing.T) {
	clock := newFakeClock()
	db := openTest(t, Options{Clock: clock})
	first := mustUpdate(t, db, Update{Key: "/a"})
	clock.advance(defaultHistoryWindow / 2)
	second := mustUpdate(t, db, Update{Key: "/a", Expect: Any})
	if _, _, err := db.Get("/a", first.Version); err != nil {
		t.Errorf("history within the window: %v", err)
	}
	clock.advance(defaultHistoryWindow/2 + time.Minute)
	eventually.True(t, "the horizon moving past the first write", func() bool { return db.Horizon() > first.Version })
	if _, _, err := db.Get("/a", second.Version); err != nil {
		t.Errorf("the newest write is still within the window: %v", err)
	}
}
