package store

import (
	"sync"
	"testing"
	"time"

	"shoal/test/eventually"
)

// fakeClock is set by hand; After fires when it is set past the time.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	timers []fakeTimer
}

type fakeTimer struct {
	at time.Time
	c  chan time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := fakeTimer{at: c.now.Add(d), c: make(chan time.Time, 1)}
	c.timers = append(c.timers, timer)
	return timer.c
}

// advance moves the clock, also back, and fires what has come due.
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	waiting := c.timers[:0]
	for _, timer := range c.timers {
		if timer.at.After(c.now) {
			waiting = append(waiting, timer)
			continue
		}
		timer.c <- c.now
	}
	c.timers = waiting
}

func TestVersionParts(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)
	v := VersionAt(at, 4095)
	if !v.Time().Equal(at) || v.Tag() != 4095 {
		t.Errorf("version %s has time %s and tag %d, want %s and 4095", v, v.Time(), v.Tag(), at)
	}
	last := VersionAt(time.Date(2094, 12, 31, 0, 0, 0, 0, time.UTC), MaxTag)
	if int64(last) < 0 {
		t.Errorf("version %s of 2094 does not fit an int64", last)
	}
	if v := VersionAt(time.Unix(0, 0), 3); v != 3 {
		t.Errorf("a clock in 1970 gives %s, want the tag alone", v)
	}
}

func TestClockVersionsGrow(t *testing.T) {
	clock := newFakeClock()
	source := clockVersions{clock: clock, tag: 7}
	last := source.Next(0)
	for name, step := range map[string]time.Duration{
		"clock stands":       0,
		"clock goes on":      time.Second,
		"clock jumps back":   -time.Hour,
		"clock still behind": time.Minute,
	} {
		clock.advance(step)
		next := source.Next(last)
		if next <= last || next.Tag() != 7 {
			t.Errorf("%s: %s after %s, want more, with tag 7", name, next, last)
		}
		last = next
	}
}

func TestVersionsGrowOverRestartWithClockBack(t *testing.T) {
	clock := newFakeClock()
	o := Options{Dir: t.TempDir(), Clock: clock}
	db := openTest(t, o)
	before, err := db.Update(t.Context(), Update{Key: "/a", Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	actor := db.Actor()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	clock.advance(-24 * time.Hour)
	db = openTest(t, o)
	if db.Actor() != actor {
		t.Errorf("actor %x after restart, %x before", db.Actor(), actor)
	}
	after, err := db.Update(t.Context(), Update{Key: "/a", Expect: before.Version, Value: []byte("2")})
	if err != nil {
		t.Fatal(err)
	}
	if after.Version <= before.Version {
		t.Errorf("version %s after restart, %s before", after.Version, before.Version)
	}
	if !before.Stamp().Before(after.Stamp()) {
		t.Errorf("stamp %+v after restart is not later than %+v", after.Stamp(), before.Stamp())
	}
}

// TestVersionsGrowOverVanishedRemoval: the newest change was a removal, which
// has left the disk along with what it removed.
func TestVersionsGrowOverVanishedRemoval(t *testing.T) {
	clock := newFakeClock()
	o := Options{Dir: t.TempDir(), Clock: clock}
	db := openTest(t, o)
	mustUpdate(t, db, Update{Key: "/a", TTL: time.Minute, Value: make([]byte, 1000)})
	w := watch(t, db, "/a", db.Version())
	clock.advance(time.Hour)
	removed := takeN(t, w, 1)[0].Version
	eventually.True(t, "the horizon reaching the removal", func() bool {
		clock.advance(maintainInterval)
		return db.Horizon() >= removed
	})
	if err := db.rotate(); err != nil {
		t.Fatal(err)
	}
	if err := db.badger.Flatten(1); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	clock.advance(-24 * time.Hour)
	db = openTest(t, o)
	if e := mustUpdate(t, db, Update{Key: "/b"}); e.Version <= removed {
		t.Errorf("version %s after restart, %s before", e.Version, removed)
	}
}

func TestHLC(t *testing.T) {
	clock := newFakeClock()
	now := clock.Now()
	first := HLC(0).Tick(now)
	if !first.Time().Equal(now) {
		t.Errorf("first reading %s, want %s", first.Time(), now)
	}
	if next := first.Tick(now.Add(-time.Hour)); next <= first {
		t.Errorf("reading %d with the clock back, want more than %d", next, first)
	}
	remote := HLC(0).Tick(now.Add(time.Minute))
	if heard := first.Observe(remote, now); heard <= remote {
		t.Errorf("reading %d after hearing %d, want more", heard, remote)
	}
}
