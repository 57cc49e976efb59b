package gossip

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/gossip/plumtree"
	"shoal/gossip/reconcile"
	"shoal/store"
	"shoal/store/vector"
)

func stamped(actor vector.Actor, sequence uint64) store.Delta {
	s := store.Stamp{Time: store.HLC(sequence), Actor: actor}
	return store.Delta{
		Key: fmt.Sprintf("/registry/flood/%x/%d", uint64(actor), sequence), Dot: store.Dot{Actor: actor, Sequence: sequence},
		Record: store.Record{UID: "u", CausalLength: 1, Born: s, Stamps: []store.Stamp{s}, Value: []byte("x")},
	}
}

func push(d store.Delta) Frame {
	return Frame{Kind: kindTree, Payload: plumtree.Append(nil, plumtree.Message{
		Type: plumtree.Push, Items: []plumtree.Item{{ID: idOf(d.Dot)}}, Payload: store.AppendDelta(nil, &d),
	})}
}

// TestGarbageCostsTheLink: each of these ends the link of who sent it, and no
// other.
func TestGarbageCostsTheLink(t *testing.T) {
	other, own := stamped(7, 1), stamped(7, 2)
	own.Key = "/shoal/local/secret"
	absurd := stamped(7, maxSequence+1)
	wrongDot := push(other)
	wrongDot.Payload = slices.Clone(wrongDot.Payload)
	wrongDot.Payload[9]++ // the actor in the tree's item
	wide := vector.Vector{}
	if err := wide.AddSpan(7, vector.Span{First: 1, Last: wantDots + 1}); err != nil {
		t.Fatal(err)
	}
	far := vector.Vector{}
	if err := far.AddSpan(7, vector.Span{First: 1, Last: math.MaxUint64}); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]Frame{
		"unknown kind":        {Kind: 200},
		"bytes":               {Kind: kindVector, Payload: []byte("rubbish, rubbish, rubbish")},
		"no tree message":     {Kind: kindTree, Payload: []byte{9, 9, 9}},
		"no record":           {Kind: kindTree, Payload: []byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 'x'}},
		"under another's dot": wrongDot,
		"a host's own record": push(own),
		"an absurd sequence":  push(absurd),
		"an absurd vector":    {Kind: kindVector, Payload: appendHolding(nil, holding{Actor: 7, Vector: far})},
		"nobody's vector":     {Kind: kindVector, Payload: appendHolding(nil, holding{Vector: vector.Vector{}})},
		"too wide a question": {Kind: kindWant, Payload: vector.AppendVector(nil, wide)},
		"a session's middle":  {Kind: kindSetOpen, Payload: appendSetStep(nil, setStep{ID: 1, Number: 4, Message: reconcile.NewSession(reconcile.NewSet(nil)).Start()})},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewCore(CoreOptions{Self: "a", Store: newReplica(1, 10), Random: rand.New(rand.NewPCG(1, 1))})
			c.Connect("bad", true, 0)
			c.Connect("good", true, 0)
			c.Take()
			c.Receive("bad", f, time.Second)
			out := c.Take()
			if len(out.Close) != 1 || out.Close[0].Peer != "bad" || out.Close[0].Reason == "" {
				t.Errorf("closed %v", out.Close)
			}
			if len(out.Merge) > 0 {
				t.Errorf("merged %v", out.Merge)
			}
			if c.link("good") == nil {
				t.Error("the other link is gone")
			}
		})
	}
}

// TestMillionRecords: a peer that pushes without end is cut off; the others go
// on and agree.
func TestMillionRecords(t *testing.T) {
	n := newNetwork(t, 21, 5, 1<<20)
	n.ordered = true
	n.join()
	n.write(n.peers[0], "/registry/a", "1")
	n.mustConverge(5 * time.Second)
	bad := n.peers[4]
	victim := n.peers[slices.IndexFunc(n.peers, func(p *simPeer) bool { return bad.links[p.name] })]
	sent := 0
	for ; sent < 1_000_000 && victim.links[bad.name]; sent++ {
		victim.core.Receive(bad.name, push(stamped(bad.replica.actor, uint64(sent)+1)), n.now)
		if sent%100 == 0 {
			n.drain(victim)
			n.run(10*time.Microsecond, nil)
		}
	}
	n.drain(victim)
	if victim.links[bad.name] {
		t.Fatal("a million records were taken from one peer")
	}
	if want := fmt.Sprintf("%s cut %s", victim.name, bad.name); len(n.closed) != 1 || !strings.HasPrefix(n.closed[0], want) {
		t.Errorf("closed: %v", n.closed)
	}
	t.Logf("cut after %d records: %v", sent, n.closed)
	n.kill(bad)
	n.write(n.peers[1], "/registry/b", "2")
	n.mustConverge(60 * time.Second)
}

// TestSlowStoreHoldsBack: what waits to be merged is bounded, and a driver that
// minds Blocked loses no link.
func TestSlowStoreHoldsBack(t *testing.T) {
	c := NewCore(CoreOptions{Self: "a", Store: newReplica(1, 10), Random: rand.New(rand.NewPCG(1, 1))})
	c.Connect("b", true, 0)
	value := []byte(strings.Repeat("x", 1<<20))
	var merges []Merge
	sent := 0
	for ; !c.Blocked("b"); sent++ {
		d := stamped(7, uint64(sent)+1)
		d.Record.Value = value
		c.Receive("b", push(d), 0)
		merges = append(merges, c.Take().Merge...)
		if sent > 2*overBytes/len(value) {
			t.Fatal("never blocked")
		}
	}
	for _, m := range merges {
		c.Merged(m.Token, nil, 0)
	}
	if c.Blocked("b") {
		t.Error("still blocked after all is merged")
	}
	for range 2 * overBytes / len(value) { // a driver that does not mind
		sent++
		d := stamped(7, uint64(sent)+1)
		d.Record.Value = value
		c.Receive("b", push(d), 0)
	}
	if out := c.Take(); len(out.Close) != 1 || !strings.Contains(out.Close[0].Reason, "could not be merged") {
		t.Errorf("closed: %v", out.Close)
	}
}

// TestFailingMergeIsRepeated: a disk that was full for a while.
func TestFailingMergeIsRepeated(t *testing.T) {
	n := newNetwork(t, 22, 3, 1<<20)
	n.join()
	n.write(n.peers[0], "/registry/a", "1")
	n.mustConverge(5 * time.Second)
	n.peers[2].replica.fail = errors.New("no space")
	for i := range 100 {
		n.write(n.peers[0], fmt.Sprintf("/registry/x/%d", i), "1")
	}
	if n.run(5*time.Second, n.equal) {
		t.Fatal("equal although nothing can be merged")
	}
	if !n.peers[0].replica.held.Equal(n.peers[1].replica.held) {
		t.Error("the others are not equal")
	}
	n.peers[2].replica.fail = nil
	n.mustConverge(10 * time.Second)
}

func TestDivergenceIsSeenAndRepaired(t *testing.T) {
	n := newNetwork(t, 23, 3, 1<<20)
	dumped := map[string]bool{}
	for _, p := range n.peers {
		p.core = NewCore(CoreOptions{
			Self: p.name, Store: p.replica, Random: rand.New(rand.NewPCG(uint64(p.replica.actor), 5)), Timing: n.timing,
			Diverged: func(_ plumtree.Peer, differing []reconcile.Difference) {
				for _, d := range differing {
					dumped[d.Key] = true
				}
			},
		})
	}
	n.join()
	for i := range 50 {
		n.write(n.peers[i%3], fmt.Sprintf("/registry/x/%d", i), "1")
	}
	n.mustConverge(5 * time.Second)
	n.run(5*time.Second, nil) // no snapshot is under way any more
	// A bug or a bad disk: one record is gone, another is older.
	bad := n.peers[1].replica
	delete(bad.records, "/registry/x/7")
	rec := bad.records["/registry/x/8"]
	rec.Stamps, rec.Value = []store.Stamp{{Time: 0, Actor: 1}}, []byte("old")
	bad.put("/registry/x/8", rec)
	n.run(DefaultTiming.Diverged/2, nil)
	alarms := func() (on int) {
		for _, p := range n.peers {
			if p.core.Alarm() != nil {
				on++
			}
		}
		return on
	}
	if alarms() > 0 {
		t.Error("an alarm before its time")
	}
	if !n.run(2*DefaultTiming.Diverged, func() bool { return alarms() > 0 }) {
		t.Fatal("no alarm")
	}
	var text string
	for _, p := range n.peers {
		if a := p.core.Alarm(); a != nil {
			text = a.Code + ": " + a.Text
		}
	}
	t.Log(text)
	if !n.run(time.Minute, func() bool {
		return n.peers[0].replica.state() == bad.state() && n.peers[2].replica.state() == bad.state() && alarms() == 0
	}) {
		t.Fatalf("not repaired, %d alarms", alarms())
	}
	if !dumped["/registry/x/7"] || !dumped["/registry/x/8"] || len(dumped) != 2 {
		t.Errorf("dumped %v", dumped)
	}
}

// TestSetsOfManyRecords: 165,000 records that differ in 10 take at most 64 KiB
// in both directions, the states of the ten included.
func TestSetsOfManyRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const records, differing = 165_000, 10
	n := newNetwork(t, 24, 2, 4)
	n.ordered = true
	for _, p := range n.peers {
		r := p.replica
		for i := range records {
			s := store.Stamp{Time: store.HLC(i + 1), Actor: 9}
			r.records[fmt.Sprintf("/registry/pods/namespace-%d/deployment-%d-pod-%d", i%50, i%900, i)] = store.Record{
				UID: "0b1e7a6c-4d1c-4b6e-9c3f-2a5d8e7f6a10", CausalLength: 1, Born: s, Stamps: []store.Stamp{s}, Value: []byte(strings.Repeat("v", 1200)),
			}
		}
		r.clock = records + 1
		if err := r.Adopt(context.Background(), vector.Vector{9: {{First: 1, Last: records}}}, 0); err != nil {
			t.Fatal(err)
		}
		n.boot(p)
	}
	keys := slices.Sorted(func(yield func(string) bool) {
		for k := range n.peers[0].replica.records {
			if !yield(k) {
				return
			}
		}
	})
	for i := range differing {
		n.peers[i%2].replica.write(keys[(i*16_127+5)%records], strings.Repeat("w", 1200))
	}
	for _, p := range n.peers {
		p.replica.log, p.replica.order = map[store.Dot]string{}, nil
	}
	n.join()
	took := n.mustConverge(30 * time.Second)
	total := 0
	for _, b := range n.bytes {
		total += b
	}
	c := n.peers[0].core.counts
	if c.Sets != 1 || c.SetKeys > differing {
		t.Errorf("%+v", c)
	}
	if total > 64<<10 {
		t.Errorf("%d bytes on the wire", total)
	}
	t.Logf("%d bytes in all (%v by kind), equal after %v of simulated time", total, n.bytes, took)
}
