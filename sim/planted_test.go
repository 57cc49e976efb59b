package sim

import (
	"testing"
	"time"
)

// planted are mistakes in the store, and how many seeds it takes at most to find
// each: several times what it took when this was written. Some are rare, and
// looked for from a seed on that is near to one that finds them.
var planted = []struct {
	name    string
	seeds   uint64
	from    uint64
	options func(*Options)
}{
	{"a tombstone is noted and not merged", 10, 1, func(o *Options) { o.Faults.SkipTombstone = true }},
	{"of two equal times the one at hand is kept", 40, 1, func(o *Options) { o.Faults.IgnoreActor = true }},
	{"causal lengths do not count", 10, 1, func(o *Options) { o.Faults.IgnoreLength = true }},
	{"a gap in a vector is forgotten", 10, 1, func(o *Options) { o.Faults.ForgetGap = true }},
	{"an actor is used again after its disk lost writes", 40, 1, func(o *Options) { o.Faults.KeepActor, o.Lying = true, true }},
	{"the log is written before the records", 40, 1, func(o *Options) { o.Faults.ChunkFirst = true }},
	{"dots are claimed whose states could not be written", 40, 1, func(o *Options) { o.Faults.ClaimFirst = true }},
	{"a tombstone is reaped before all have it", 10, 1, func(o *Options) { o.Faults.ReapEarly = true }},
	{"reaping does not raise the floor", 40, 1, func(o *Options) { o.Faults.ForgetFloor = true }},
	{"a member that is cut off does not count", 40, 1, func(o *Options) { o.Faults.Impatient = true }},
	{"deltas from the future are dropped and noted", 40, 1, func(o *Options) { o.Faults.DropHeld = true }},
	{"stamps are collapsed before all have them", 40, 1, func(o *Options) { o.Faults.CollapseEarly, o.Fields = true, true }},
	{"sequence numbers of a failed commit are used again", 40, 1, func(o *Options) { o.Faults.ReuseSequence = true }},
	{"a dot is answered with a void although there is a state", 10, 1, func(o *Options) { o.Faults.VoidState = true }},
	{"dots of our own that come back are voided", 600, 5080, func(o *Options) { o.Faults.VoidOwn, o.Lying, o.Driver = true, true, Gossip }},
	{"an end by time is kept to oneself", 150, 15, func(o *Options) { o.Faults.KeepQuiet = true }},
	{"who joins finds out by itself what is stable", 300, 50, func(o *Options) { o.Faults.JudgeEarly, o.Driver = true, Gossip }},
	{"what a broken snapshot left stays", 300, 5080, func(o *Options) { o.Faults.KeepGiven, o.Driver = true, Gossip }},
	{"a snapshot goes to who is no member", 600, 5470, func(o *Options) { o.Reckless = true }},
	{"a former actor goes before its successor is known", 150, 10, func(o *Options) { o.Faults.RetireFirst, o.OwnSpans, o.Driver = true, 2, Gossip }},
	{"what a torn commit left gets no dot", 40, 1, func(o *Options) { o.Faults.ForgetOrphans = true }},
}

// TestPlanted shows that the simulator can fail.
func TestPlanted(t *testing.T) {
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			began := time.Now()
			for seed := p.from; seed < p.from+p.seeds; seed++ {
				o := Vary(seed)
				o.Poison, o.Calm, o.Lying = false, false, false
				p.options(&o)
				if r := Run(seed, o); r.Err != nil {
					t.Logf("found after %d seeds, %v: %v", seed-p.from+1, time.Since(began), r.Err)
					return
				}
			}
			t.Errorf("not found by %d seeds from %d on", p.seeds, p.from)
		})
	}
}

// TestReplays: one seed, one run.
func TestReplays(t *testing.T) {
	for _, d := range []Driver{Simple, Gossip} {
		for seed := range uint64(3) {
			o := Vary(seed)
			o.Driver = d
			a, b := Run(seed, o), Run(seed, o)
			if a.Trace != b.Trace || a.Delivered != b.Delivered || a.Answered != b.Answered {
				t.Errorf("seed %d, driver %d: two runs differ: %+v and %+v", seed, d, a, b)
			}
			if c := Run(seed+100, o); c.Trace == a.Trace {
				t.Errorf("seed %d: another seed gives the same run", seed)
			}
		}
	}
}
