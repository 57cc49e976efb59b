package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	first  = flag.Uint64("sim.seed", 1, "the first seed of TestLong")
	seeds  = flag.Int("sim.n", 0, "how many seeds TestLong runs; 0 skips it")
	driver = flag.String("sim.driver", "", "simple or gossip; TestLong runs both by default")
	peers  = flag.Int("sim.peers", 0, "how many peers, instead of a few")
	story  = flag.Bool("sim.story", false, "print all of the trace")
)

func mustHold(t *testing.T, seed uint64, o Options) Result {
	t.Helper()
	r := Run(seed, o)
	if r.Err != nil {
		t.Errorf("%v\n%s\nreplay with: go test ./sim -run TestLong -sim.n 1 -sim.seed %d", r.Err, r.Story, seed)
	}
	return r
}

func TestLong(t *testing.T) {
	if *seeds == 0 {
		t.Skip("started by make sim")
	}
	for _, d := range []Driver{Simple, Gossip} {
		if *driver == "simple" && d != Simple || *driver == "gossip" && d != Gossip {
			continue
		}
		began, failed := time.Now(), 0
		for i := range *seeds {
			seed := *first + uint64(i)
			o := Vary(seed)
			o.Driver, o.Verbose = d, *story
			if *peers > 0 {
				o.Peers, o.Duration, o.Writes = *peers, 5*time.Second, 50
			}
			r := Run(seed, o)
			if *story {
				fmt.Println(r.All)
			}
			if r.Err != nil {
				failed++
				if failed <= 3 {
					t.Errorf("%v\n%+v\n%s", r.Err, o, r.Story)
				} else {
					t.Errorf("%v", r.Err)
				}
			}
		}
		t.Logf("driver %d: %d seeds in %v, %d failed", d, *seeds, time.Since(began), failed)
	}
}

// TestSeeds is the bounded set of every commit.
func TestSeeds(t *testing.T) {
	const simple, gossiped = 150, 60
	for seed := uint64(1000); seed < 1000+simple; seed++ {
		mustHold(t, seed, Vary(seed))
	}
	for seed := uint64(2000); seed < 2000+gossiped; seed++ {
		o := Vary(seed)
		o.Driver = Gossip
		mustHold(t, seed, o)
	}
}

// TestBounded: ten times the churn leaves no more behind.
func TestBounded(t *testing.T) {
	for _, d := range []Driver{Simple, Gossip} {
		o := Options{Driver: d, Writes: 600, LogDots: 200, ColdKeys: 50}
		once := mustHold(t, 5, o)
		o.Writes *= 10
		ten := mustHold(t, 5, o)
		t.Logf("driver %d: %d writes leave %d tombstones and %d chunks, %d leave %d and %d", d,
			once.Answered, once.Tombstones, once.Chunks, ten.Answered, ten.Tombstones, ten.Chunks)
		// Keys are deleted as they are made: what is not reaped yet is at most
		// what there are keys; chunks have one dot at least.
		if limit := 50 + 8 + 40; ten.Tombstones > limit {
			t.Errorf("driver %d: %d tombstones, limit %d", d, ten.Tombstones, limit)
		}
		if limit := 2 * o.LogDots; ten.Chunks > limit {
			t.Errorf("driver %d: %d chunks, limit %d", d, ten.Chunks, limit)
		}
	}
}

// TestFleet runs fifty peers.
func TestFleet(t *testing.T) {
	for _, d := range []Driver{Simple, Gossip} {
		began := time.Now()
		r := mustHold(t, 1, Options{Driver: d, Peers: 50, Writes: 200, Duration: 10 * time.Second})
		t.Logf("driver %d: 50 peers, %d writes, %d messages, equal %v after the last fault; %v", d, r.Answered, r.Delivered, r.Settled, time.Since(began))
	}
}
