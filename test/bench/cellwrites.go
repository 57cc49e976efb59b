package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// visibleWrites give the 99th percentile three values above it.
	visibleWrites = 300
	visibleWarm   = 20
	// visiblePause keeps one write from waiting for another.
	visiblePause = 30 * time.Millisecond

	// sustainedWarm goes before what is measured: caches and logs that have a
	// limit reach it, and heaps their size.
	sustainedWarm    = 60 * time.Second
	sustainedFor     = 60 * time.Second
	sustainedCallers = 8
	// sustainedObjects are changed by each caller again and again, so that the
	// state does not grow and growing memory would be a leak.
	sustainedObjects = 100
	sampleEvery      = time.Second
)

// visibility reports how long a write on one peer takes to be seen through a
// watch at each of the others. One process writes and watches, so there is one
// clock; connections are open before.
func visibility(ctx context.Context, b *bench) error {
	c, err := b.cell(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(chan sighting, visibleWrites*cellPeers)
	var watchers errgroup.Group
	defer func() { cancel(); _ = watchers.Wait() }()
	for _, p := range c.peers[1:] {
		w, err := p.maps.Watch(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		watchers.Go(func() error { return sight(ctx, w, seen) })
	}
	var sent, answered []time.Duration
	for i := range visibleWarm + visibleWrites {
		time.Sleep(visiblePause + rand.N(visiblePause/3))
		fromSending, fromAnswer, err := c.writeAndSee(ctx, fmt.Sprintf("visible-%d", i), seen)
		if err != nil {
			return err
		}
		if i >= visibleWarm {
			sent, answered = append(sent, fromSending), append(answered, fromAnswer)
		}
	}
	report("write sent → seen at 4 other peers, p50", milliseconds(percentile(sent, 50)), "ms", atMost(10), load())
	report("write sent → seen at 4 other peers, p99", milliseconds(percentile(sent, 99)), "ms", atMost(100), load())
	report("write answered → seen at 4 others, p50", milliseconds(percentile(answered, 50)), "ms", atMost(10), load())
	report("write answered → seen at 4 others, p99", milliseconds(percentile(answered, 99)), "ms", atMost(100), load())
	return nil
}

// sighting is an object that arrived at one of the watchers.
type sighting struct {
	name string
	at   time.Time
}

func sight(ctx context.Context, w watch.Interface, seen chan<- sighting) error {
	defer w.Stop()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				return errors.New("a watch ended")
			}
			if object, ok := e.Object.(*corev1.ConfigMap); ok {
				seen <- sighting{object.Name, time.Now()}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// writeAndSee writes on the first peer and waits until all others showed it.
func (c *cell) writeAndSee(ctx context.Context, name string, seen <-chan sighting) (fromSending, fromAnswer time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	if _, err := c.peers[0].maps.Create(ctx, smallObject(name), metav1.CreateOptions{}); err != nil {
		return 0, 0, err
	}
	answered := time.Now()
	last := answered
	for left := len(c.peers) - 1; left > 0; {
		select {
		case s := <-seen:
			if s.name == name {
				left--
				last = s.at
			}
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("%d peers do not show %s: %w", left, name, ctx.Err())
		}
	}
	return last.Sub(began), max(0, last.Sub(answered)), nil
}

// sustained reports what one peer takes in for a minute while the other four
// follow, and what that does to memory.
func sustained(ctx context.Context, b *bench) error {
	c, err := b.cell(ctx)
	if err != nil {
		return err
	}
	daemons, err := c.daemons(ctx)
	if err != nil {
		return err
	}
	if err := c.createAll(ctx, "sustained", sustainedCallers, sustainedObjects); err != nil {
		return err
	}
	var answered atomic.Int64
	writing, stop := context.WithTimeout(ctx, sustainedWarm+sustainedFor)
	defer stop()
	group, groupCtx := errgroup.WithContext(ctx)
	for caller := range sustainedCallers {
		group.Go(func() error {
			for i := 0; writing.Err() == nil; i++ {
				object := smallObject(fmt.Sprintf("sustained-%d-%d", caller, i%sustainedObjects))
				object.Data["key"] = fmt.Sprint(i)
				if _, err := c.peers[0].maps.Update(groupCtx, object, metav1.UpdateOptions{}); err != nil {
					stop()
					return err
				}
				answered.Add(1)
			}
			return nil
		})
	}
	select {
	case <-time.After(sustainedWarm):
	case <-writing.Done():
	}
	warm, began := answered.Load(), time.Now()
	costs := make([]cost, len(daemons))
	var sampling sync.WaitGroup
	for i, d := range daemons {
		if costs[i].before, err = cpuTime(d.Pid); err != nil {
			return err
		}
		sampling.Go(func() { costs[i].take(writing, d.Pid) })
	}
	err = group.Wait()
	took := time.Since(began)
	stop()
	sampling.Wait()
	if err != nil {
		return err
	}
	equal, err := c.untilEqual(ctx)
	if err != nil {
		return err
	}
	writes := float64(answered.Load() - warm)
	report("writes on one of 5 peers for 60 s", writes/took.Seconds(), "/s", atLeast(400), load())
	report("all 5 equal after the last of them", equal.Seconds(), "s", atMost(2), load())
	return reportCosts(daemons, costs, writes)
}

// createAll makes objects for callers, named prefix-CALLER-NUMBER.
func (c *cell) createAll(ctx context.Context, prefix string, callers, objects int) error {
	group, ctx := errgroup.WithContext(ctx)
	for caller := range callers {
		group.Go(func() error {
			for i := range objects {
				object := smallObject(fmt.Sprintf("%s-%d-%d", prefix, caller, i))
				if _, err := c.peers[0].maps.Create(ctx, object, metav1.CreateOptions{}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
