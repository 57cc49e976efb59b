package main

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	killed      = 5
	killLoadFor = 5 * time.Second
	killAwayFor = time.Minute
	// killEvery is the pause between two writes of one writer: with one on each
	// peer, 200 a second. More would measure the two cores.
	killEvery   = 25 * time.Millisecond
	killObjects = 50
)

// writer changes objects of its own on one peer; what it was answered is what
// no peer may lose.
type writer struct {
	peer *cellPeer

	mu       sync.Mutex
	answered map[string]int // the greatest value by object; guarded by mu
	failed   atomic.Int64
}

func (w *writer) run(ctx context.Context) {
	tick := time.NewTicker(killEvery)
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		object := smallObject(fmt.Sprintf("kill-%d-%d", w.peer.number-1, i%killObjects))
		object.Data["key"] = strconv.Itoa(i)
		_, err := w.peer.maps.Update(call, object, metav1.UpdateOptions{})
		cancel()
		if ctx.Err() != nil {
			return // nobody knows what came of it
		}
		if err != nil {
			w.failed.Add(1)
			continue
		}
		w.mu.Lock()
		w.answered[object.Name] = i
		w.mu.Unlock()
	}
}

func (w *writer) have() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.answered)
}

// kill ends one of five peers that all take writes, as a power cut does, brings
// it back half a minute later and compares what was answered with what all hold.
func kill(ctx context.Context, b *bench) error {
	c, err := b.cell(ctx)
	if err != nil {
		return err
	}
	if err := c.createAll(ctx, "kill", cellPeers, killObjects); err != nil {
		return err
	}
	if _, err := c.untilEqual(ctx); err != nil {
		return err
	}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var writing sync.WaitGroup
	writers := make([]*writer, cellPeers)
	for i, p := range c.peers {
		writers[i] = &writer{peer: p, answered: map[string]int{}}
		writing.Go(func() { writers[i].run(loading) })
	}
	time.Sleep(killLoadFor)
	if err := c.Kill(ctx, killed); err != nil {
		return err
	}
	time.Sleep(killAwayFor)
	began := time.Now()
	if err := c.Start(ctx, killed); err != nil {
		return err
	}
	ready := time.Now()
	caught, err := c.catchUp(ctx, writers)
	if err != nil {
		return err
	}
	report("kill -9 of 1 of 5, away 60 s: start to ready", ready.Sub(began).Seconds(), "s", stated, load())
	report("kill -9 of 1 of 5: ready to all it missed shown", caught.Seconds(), "s", atMost(3), load())
	stop()
	writing.Wait()
	return c.compareAnswered(ctx, writers)
}

// catchUp waits until the peer that was away shows all that had been answered
// when it was ready, while the others go on writing.
func (c *cell) catchUp(ctx context.Context, writers []*writer) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began, missed := time.Now(), map[string]int{}
	for _, w := range writers {
		if w.peer.number != killed {
			maps.Copy(missed, w.have())
		}
	}
	for {
		behind, err := c.peers[killed-1].lacks(ctx, missed)
		if err == nil && behind == 0 {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("peer %d lacks %d of %d objects still (%w): %w", killed, behind, len(missed), err, ctx.Err())
		case <-time.After(5 * askEvery):
		}
	}
}

// lacks counts the objects that a peer shows with an older value.
func (p *cellPeer) lacks(ctx context.Context, answered map[string]int) (int, error) {
	held, err := p.data(ctx)
	if err != nil {
		return 0, err
	}
	lacking := 0
	for name, value := range answered {
		if shown, err := strconv.Atoi(held[name]["key"]); err != nil || shown < value {
			lacking++
		}
	}
	return lacking, nil
}

// compareAnswered looks for every answered write at every peer.
func (c *cell) compareAnswered(ctx context.Context, writers []*writer) error {
	if _, err := c.untilEqual(ctx); err != nil {
		return err
	}
	lost, writes := 0, 0
	for _, w := range writers {
		for _, p := range c.peers {
			lacking, err := p.lacks(ctx, w.have())
			if err != nil {
				return err
			}
			lost += lacking
		}
		writes += len(w.have())
		if w.peer.number != killed && w.failed.Load() > 0 {
			report(fmt.Sprintf("kill -9 of 1 of 5: calls failed at peer %d", w.peer.number), float64(w.failed.Load()), "", atMost(0), "")
		}
	}
	report(fmt.Sprintf("kill -9 of 1 of 5: answered lost, %d objects", writes), float64(lost), "", atMost(0), "")
	return nil
}
