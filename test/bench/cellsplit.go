package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	splitFor     = 30 * time.Second
	splitObjects = 100
	splitEdits   = 500
	// probeEvery is how often each peer's API is asked during the split.
	probeEvery = 200 * time.Millisecond
)

// splitSides are the numbers of the peers that still hear each other.
var splitSides = [2][]int{{1, 2}, {3, 4, 5}}

// split cuts the cell in two, has both sides edit the same objects in different
// fields, and heals it.
func split(ctx context.Context, b *bench) error {
	c, err := b.cell(ctx)
	if err != nil {
		return err
	}
	if err := c.createAll(ctx, "split", 1, splitObjects); err != nil {
		return err
	}
	if _, err := c.untilEqual(ctx); err != nil {
		return err
	}
	if err := c.Cut(ctx, splitSides[0]...); err != nil {
		return err
	}
	var refused, asked atomic.Int64
	var probes sync.WaitGroup
	probing, stop := context.WithCancel(ctx)
	defer stop()
	for _, p := range c.peers {
		probes.Go(func() { p.probe(probing, &asked, &refused) })
	}
	sides, err := c.editSides(ctx, &asked, &refused)
	if err != nil {
		return err
	}
	roots, err := c.roots(ctx)
	if err != nil {
		return err
	}
	if sameRoot(roots) {
		return fmt.Errorf("the sides are equal though they are cut apart: %v", roots)
	}
	if err := c.Heal(ctx); err != nil {
		return err
	}
	equal, err := c.untilEqual(ctx)
	if err != nil {
		return err
	}
	stop()
	probes.Wait()
	lost, err := c.lostFields(ctx, sides)
	if err != nil {
		return err
	}
	report("split 2:3 for 30 s: equal after healing", equal.Seconds(), "s", atMost(3), load())
	report("split 2:3: fields lost of 2×500 edits, 5 peers", float64(lost), "", atMost(0), "")
	report(fmt.Sprintf("split 2:3: calls of %d not answered", asked.Load()), float64(refused.Load()), "", atMost(0), "")
	return nil
}

// probe reads and counts what is not answered.
func (p *cellPeer) probe(ctx context.Context, asked, refused *atomic.Int64) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := p.maps.Get(call, "split-0-0", metav1.GetOptions{})
		cancel()
		if ctx.Err() != nil {
			return
		}
		asked.Add(1)
		if err != nil {
			refused.Add(1)
		}
	}
}

// side is what one side wrote last under each field, by object and field.
type side map[string]map[string]string

// editSides edits on both sides at once, evenly over the time of the split.
func (c *cell) editSides(ctx context.Context, asked, refused *atomic.Int64) ([2]side, error) {
	var sides [2]side
	group, ctx := errgroup.WithContext(ctx)
	for s, numbers := range splitSides {
		sides[s] = side{}
		group.Go(func() error {
			tick := time.NewTicker(splitFor / splitEdits)
			defer tick.Stop()
			for i := range splitEdits {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-tick.C:
				}
				name, field, value := fmt.Sprintf("split-0-%d", i%splitObjects), fmt.Sprintf("side-%d-%d", s, i%3), fmt.Sprint(i)
				peer := c.peers[numbers[i%len(numbers)]-1]
				asked.Add(1)
				if err := peer.edit(ctx, name, field, value); err != nil {
					refused.Add(1)
					continue
				}
				if sides[s][name] == nil {
					sides[s][name] = map[string]string{}
				}
				sides[s][name][field] = value
			}
			return nil
		})
	}
	return sides, group.Wait()
}

func (p *cellPeer) edit(ctx context.Context, name, field, value string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	patch := fmt.Sprintf(`{"data":{%q:%q}}`, field, value)
	_, err := p.maps.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// lostFields counts, over all peers, fields that do not have what was written
// and answered last.
func (c *cell) lostFields(ctx context.Context, sides [2]side) (int, error) {
	lost := 0
	for _, p := range c.peers {
		held, err := p.data(ctx)
		if err != nil {
			return 0, err
		}
		for _, s := range sides {
			for name, fields := range s {
				for field, value := range fields {
					if held[name][field] != value {
						lost++
					}
				}
			}
		}
	}
	return lost, nil
}

// data lists what a peer's API shows.
func (p *cellPeer) data(ctx context.Context) (map[string]map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := p.maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	held := make(map[string]map[string]string, len(list.Items))
	for i := range list.Items {
		held[list.Items[i].Name] = list.Items[i].Data
	}
	return held, nil
}
