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
