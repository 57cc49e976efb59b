package store

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

func watch(t testing.TB, db *DB, watched string, from Version) *Watcher {
	t.Helper()
	w, err := db.Watch(watched, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

// takeN collects n events.
func takeN(t testing.TB, w *Watcher, n int) []*Event {
	t.Helper()
	var events []*Event
	for len(events) < n {
		select {
		case <-w.Ready():
		case <-time.After(30 * time.Second):
			t.Fatalf("got %d events, waiting for %d", len(events), n)
		}
		more, _, err := w.Take()
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, more...)
	}
	return events
}

func describe(e *Event) string {
	kind := "modified"
	switch {
	case e.Deleted:
		kind = "deleted"
	case e.PrevVersion == 0:
		kind = "added"
	}
	return fmt.Sprintf("%s %s %q was %q", kind, e.Key, e.Value, e.Prev)
}

func TestWatchTellsChanges(t *testing.T) {
	db := openTest(t, Options{})
	from := db.Version()
	all, one := watch(t, db, "/w/", from), watch(t, db, "/w/a", from)
	mustUpdate(t, db, Update{Key: "/w/a", Value: []byte("1")})
	mustUpdate(t, db, Update{Key: "/w/a", Expect: Any, Value: []byte("2")})
	mustUpdate(t, db, Update{Key: "/w/b", Value: []byte("1")})
	mustUpdate(t, db, Update{Key: "/other", Value: []byte("1")})
	mustUpdate(t, db, Update{Key: "/w/a", Expect: Any, Delete: true})
	mustUpdate(t, db, Update{Key: "/w/a", Value: []byte("3")})

	wantA := []string{
		`added /w/a "1" was ""`,
		`modified /w/a "2" was "1"`,
		`deleted /w/a "" was "2"`,
		`added /w/a "3" was ""`,
	}
	wantAll := append(append([]string{}, wantA[:2]...), append([]string{`added /w/b "1" was ""`}, wantA[2:]...)...)
	late := watch(t, db, "/w/", from)
	for name, c := range map[string]struct {
		w    *Watcher
		want []string
	}{"prefix": {all, wantAll}, "key": {one, wantA}, "subscribed late": {late, wantAll}} {
		events := takeN(t, c.w, len(c.want))
		var last Version
		for i, e := range events {
			if got := describe(e); got != c.want[i] {
				t.Errorf("%s: event %d is %s, want %s", name, i, got, c.want[i])
			}
			if e.Version <= last {
				t.Errorf("%s: version %s after %s", name, e.Version, last)
			}
			last = e.Version
		}
		if _, upTo, err := c.w.Take(); err != nil || upTo != db.Version() {
			t.Errorf("%s: seen up to %s (%v), want %s", name, upTo, err, db.Version())
		}
	}
}

// TestWatchUnderLoad: several watchers, starting at different moments, each
// get every change after their start, once and in order.
func TestWatchUnderLoad(t *testing.T) {
	db := openTest(t, Options{})
	const writes = 4000
	from := db.Version()
	first := watch(t, db, "/load/", from)
	var n atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- inParallel(16, func() error {
			for i := n.Add(1); i <= writes; i = n.Add(1) {
				if _, err := db.Update(t.Context(), Update{Key: fmt.Sprintf("/load/%d", i%97), Expect: Any}); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	seen := takeN(t, first, writes)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, start := range []int{0, writes / 3, writes - 1} {
		late := takeN(t, watch(t, db, "/load/", seen[start].Version), writes-start-1)
		for i, e := range late {
			want := seen[start+1+i]
			if e.Version != want.Version || e.Key != want.Key || e.PrevVersion != want.PrevVersion {
				t.Fatalf("event %d after %d differs: %+v, want %+v", i, start, e, want)
			}
		}
	}
}

// TestWatchReadsBack: what the log no longer holds in memory comes from disk,
// with what it replaced, also after the tables were compacted.
func TestWatchReadsBack(t *testing.T) {
	db := openTest(t, Options{})
	from := db.Version()
	const changes = 3 * recentEvents
	for i := range changes {
		mustUpdate(t, db, Update{Key: "/lag", Expect: Any, Value: fmt.Appendf(nil, "%d", i)})
	}
	mustUpdate(t, db, Update{Key: "/lag", Expect: Any, Delete: true})
	if err := db.rotate(); err != nil {
		t.Fatal(err)
	}
	if err := db.badger.Flatten(1); err != nil {
		t.Fatal(err)
	}
	events := takeN(t, watch(t, db, "/lag", from), changes+1)
	for i, e := range events[1:changes] {
		want := fmt.Sprintf(`modified /lag "%d" was "%d"`, i+1, i)
		if got := describe(e); got != want {
			t.Fatalf("event %d is %s, want %s", i+1, got, want)
		}
	}
	if got, want := describe(events[changes]), fmt.Sprintf(`deleted /lag "" was "%d"`, changes-1); got != want {
		t.Errorf("last event is %s, want %s", got, want)
	}
}

func TestWatchWindow(t *testing.T) {
	const window = 100
	db := openTest(t, Options{WatchWindowEvents: window})
	from := db.Version()
	slow, other := watch(t, db, "/", from), watch(t, db, "/quiet/", from)
	for i := range window + 1 {
		mustUpdate(t, db, Update{Key: fmt.Sprintf("/k/%d", i)})
	}
	if _, _, err := slow.Take(); !errors.Is(err, ErrExpired) {
		t.Errorf("a watcher %d changes behind: error %v, want ErrExpired", window+1, err)
	}
	if _, err := db.Watch("/", from); !errors.Is(err, ErrExpired) {
		t.Errorf("watch from before the window: error %v, want ErrExpired", err)
	}
	if _, err := db.Watch("/", db.Version()+1); !errors.Is(err, ErrFuture) {
		t.Errorf("watch from the future: error %v, want ErrFuture", err)
	}
	// Having nothing to take is not being slow.
	mustUpdate(t, db, Update{Key: "/quiet/a"})
	if e := takeN(t, other, 1); e[0].Key != "/quiet/a" {
		t.Errorf("quiet watcher got %s", describe(e[0]))
	}
	if s := db.Stats(); s.WatchLogEvents != window {
		t.Errorf("the log holds %d changes, want its limit of %d", s.WatchLogEvents, window)
	}
}

func TestWatchAfterRestart(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	db := openTest(t, o)
	first := mustUpdate(t, db, Update{Key: "/a"})
	last := mustUpdate(t, db, Update{Key: "/b"})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openTest(t, o)
	if _, err := db.Watch("/", first.Version); !errors.Is(err, ErrExpired) {
		t.Errorf("watch from before the restart: error %v, want ErrExpired", err)
	}
	w := watch(t, db, "/", last.Version)
	mustUpdate(t, db, Update{Key: "/c"})
	if e := takeN(t, w, 1); e[0].Key != "/c" {
		t.Errorf("watch resumed at the last version got %s", describe(e[0]))
	}
}

func TestMemoIsSharedByOwner(t *testing.T) {
	e := &Event{}
	builds := 0
	build := func() any { builds++; return builds }
	if a, b := e.Memo("one", build), e.Memo("one", build); a != b {
		t.Errorf("one owner got %v and %v", a, b)
	}
	if a, b := e.Memo("one", build), e.Memo("two", build); a == b || builds != 2 {
		t.Errorf("two owners share %v after %d builds", a, builds)
	}
}
