package main

import (
	"context"
	"slices"
	"time"
)

// idlePeers reports what five peers of a cell cost that have nothing to do.
func idlePeers(ctx context.Context, b *bench) error {
	c, err := b.cell(ctx)
	if err != nil {
		return err
	}
	time.Sleep(idleSettle)
	daemons, err := c.daemons(ctx)
	if err != nil {
		return err
	}
	before := make([]time.Duration, len(daemons))
	for i, d := range daemons {
		if before[i], err = cpuTime(d.Pid); err != nil {
			return err
		}
	}
	began := time.Now()
	time.Sleep(idleWindow)
	var total, host int64
	var shares []float64
	for i, d := range daemons {
		after, err := cpuTime(d.Pid)
		if err != nil {
			return err
		}
		shares = append(shares, 100*float64(after-before[i])/float64(time.Since(began)))
		anonymous, err := anonymousBytes(d.Pid)
		if err != nil {
			return err
		}
		total, host = max(total, anonymous), host+d.MemoryBytes
	}
	report("5 idle peers: memory of all their processes", float64(host)/megabyte, "MB", atMost(2048), load())
	report("5 idle peers: anonymous memory, largest daemon", float64(total)/megabyte, "MB", atMost(220), load())
	report("5 idle peers: CPU of a daemon, mean", mean(shares), "%", atMost(1), load())
	report("5 idle peers: CPU of a daemon, largest", slices.Max(shares), "%", stated, load())
	return nil
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
