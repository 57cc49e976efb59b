package main

import (
	"context"
	"slices"
	"time"

	"shoal/cmd/shoal/lab"
)

// flatPercent is how much of its memory a process may gain in a minute of changing
// the same objects and still be said to be flat: what the collector's pace adds
// by chance is about half of it.
const flatPercent = 5

// cost is that of one process: CPU time used before, and anonymous memory over
// time, in minutes.
type cost struct {
	before        time.Duration
	at, megabytes []float64
}

// take samples until ctx ends.
func (s *cost) take(ctx context.Context, pid int) {
	began := time.Now()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		anonymous, err := anonymousBytes(pid)
		if err == nil {
			s.at = append(s.at, time.Since(began).Minutes())
			s.megabytes = append(s.megabytes, float64(anonymous)/megabyte)
		}
	}
}

// slope is the least-squares one, in megabytes a minute.
func (s *cost) slope() float64 {
	if len(s.at) < 2 {
		return 0
	}
	at, megabytes := mean(s.at), mean(s.megabytes)
	var with, of float64
	for i := range s.at {
		with += (s.at[i] - at) * (s.megabytes[i] - megabytes)
		of += (s.at[i] - at) * (s.at[i] - at)
	}
	return with / of
}

// reportCosts reports the memory and the CPU of the writes, for the peer that
// took them, which is the first, and for those that followed.
func reportCosts(daemons []lab.Status, costs []cost, writes float64) error {
	var cpu []float64
	var worst, largest float64
	for i, d := range daemons {
		after, err := cpuTime(d.Pid)
		if err != nil {
			return err
		}
		c := &costs[i]
		cpu = append(cpu, float64((after-c.before).Microseconds())/writes)
		largest = max(largest, slices.Max(c.megabytes))
		worst = max(worst, 100*c.slope()/mean(c.megabytes))
	}
	report("growth of memory in a minute, worst of 5", worst, "%", atMost(flatPercent), load())
	report("anonymous memory meanwhile, largest", largest, "MB", stated, load())
	report("CPU of a write on the peer that takes it", cpu[0], "µs", stated, load())
	report("CPU of a write on each of the others", mean(cpu[1:]), "µs", stated, load())
	return nil
}
