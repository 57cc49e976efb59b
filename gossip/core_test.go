package gossip

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal/gossip/plumtree"
)

func TestConvergeOverABadNetwork(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			n := newNetwork(t, seed, 3+int(seed%8), 1<<20)
			n.loss, n.repeat = float64(seed%4)*0.1, 0.1
			n.join()
			for i := range 300 {
				p := n.peers[n.random.IntN(len(n.peers))]
				value := fmt.Sprint(i)
				if n.random.IntN(5) == 0 {
					value = ""
				}
				n.write(p, fmt.Sprintf("/registry/pods/%d", n.random.IntN(60)), value)
				n.run(time.Duration(n.random.Int64N(int64(5*time.Millisecond))), nil)
			}
			n.mustConverge(60 * time.Second)
			for _, reason := range n.closed {
				// A part of a snapshot may be lost here.
				if !strings.Contains(reason, "does not come to an end") {
					t.Error(reason)
				}
			}
		})
	}
}

func TestPartitionHeals(t *testing.T) {
	n := newNetwork(t, 7, 7, 1<<20)
	n.join()
	n.run(2*time.Second, nil)
	side := func(p plumtree.Peer) bool { return p < "peer-03" }
	n.cutOff = func(a, b plumtree.Peer) bool { return side(a) != side(b) }
	for _, p := range n.peers {
		for _, q := range n.peers {
			if n.cutOff(p.name, q.name) {
				n.disconnect(p, q)
			}
		}
	}
	n.join()
	for i := range 2000 {
		n.write(n.peers[i%7], fmt.Sprintf("/registry/pods/%d", i%100), fmt.Sprint(i))
		n.run(time.Millisecond, nil)
	}
	if n.run(time.Second, n.equal) {
		t.Fatal("equal although cut")
	}
	n.cutOff = func(a, b plumtree.Peer) bool { return false }
	n.join()
	if took := n.mustConverge(20 * time.Second); took > 3*time.Second {
		t.Errorf("equal %v after healing", took)
	}
}

// TestFarBehind: the log no longer holds what the peer lacks.
func TestFarBehind(t *testing.T) {
	n := newNetwork(t, 8, 3, 200)
	n.join()
	for i := range 100 {
		n.write(n.peers[0], fmt.Sprintf("/registry/pods/%d", i), "old")
	}
	n.mustConverge(5 * time.Second)
	late := n.peers[2]
	n.kill(late)
	for i := range 3000 {
		value := fmt.Sprint(i)
		if i%7 == 0 {
			value = ""
		}
		n.write(n.peers[i%2], fmt.Sprintf("/registry/pods/%d", i%1500), value)
		n.run(time.Millisecond, nil)
	}
	n.boot(late)
	n.join()
	took := n.mustConverge(30 * time.Second)
	if c := late.core.counts; c.Sets == 0 || c.Snapshots != 0 {
		t.Errorf("not by sets: %+v", c)
	}
	t.Logf("equal after %v, %d keys by sets", took, late.core.counts.SetKeys)
}

func TestBothWritesAreExchangedBySets(t *testing.T) {
	n := newNetwork(t, 9, 2, 50)
	n.join()
	n.write(n.peers[0], "/registry/a", "1")
	n.write(n.peers[1], "/registry/b", "1")
	n.mustConverge(5 * time.Second)
	n.disconnect(n.peers[0], n.peers[1])
	n.cutOff = func(a, b plumtree.Peer) bool { return a != b }
	for i := range 500 {
		n.write(n.peers[0], fmt.Sprintf("/registry/x/%d", i), "0")
		n.write(n.peers[1], fmt.Sprintf("/registry/y/%d", i), "1")
	}
	n.cutOff = func(a, b plumtree.Peer) bool { return false }
	n.join()
	n.mustConverge(30 * time.Second)
}

// TestManyDifferences needs more than one session carries.
func TestManyDifferences(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	n := newNetwork(t, 10, 2, 10)
	n.join()
	n.write(n.peers[0], "/registry/a", "1")
	n.write(n.peers[1], "/registry/b", "1")
	n.mustConverge(5 * time.Second)
	n.kill(n.peers[1])
	for i := range 40_000 {
		n.peers[0].replica.write(fmt.Sprintf("/registry/x/%d", i), "0")
	}
	n.boot(n.peers[1])
	n.join()
	n.mustConverge(120 * time.Second)
	t.Logf("%d sessions", n.peers[1].core.counts.Sets+n.peers[0].core.counts.Sets)
}

func TestJoinerTakesASnapshot(t *testing.T) {
	n := newNetwork(t, 11, 4, 100)
	n.join()
	for i := range 5000 {
		n.write(n.peers[i%4], fmt.Sprintf("/registry/pods/%d", i), strings.Repeat("x", 200))
		n.run(200*time.Microsecond, nil)
	}
	n.mustConverge(20 * time.Second)
	fresh := n.add("peer-99", newReplica(99, 100))
	n.write(fresh, "/registry/nodes/peer-99", "me")
	n.join()
	took := n.mustConverge(20 * time.Second)
	if c := fresh.core.counts; c.Snapshots != 1 || c.SnapshotsFailed != 0 || fresh.core.Joining() {
		t.Errorf("not by one snapshot: %+v, joining %v", c, fresh.core.Joining())
	}
	t.Logf("equal after %v", took)
}

// TestSkewedJoiner: what is held back delays the end of a snapshot, and no more.
func TestSkewedJoiner(t *testing.T) {
	n := newNetwork(t, 14, 3, 100)
	n.join()
	for i := range 1000 {
		n.write(n.peers[i%3], fmt.Sprintf("/registry/pods/%d", i), "x")
	}
	n.mustConverge(20 * time.Second)
	r := newReplica(99, 100)
	r.skewed = 6 // seconds, longer than a session without progress
	fresh := n.add("peer-99", r)
	n.join()
	n.mustConverge(20 * time.Second)
	if c := fresh.core.counts; c.Snapshots != 1 || c.SnapshotsFailed != 0 {
		t.Errorf("%+v", c)
	}
}

// TestSnapshotSurvivesItsSender: the first sender dies on the way.
func TestSnapshotSurvivesItsSender(t *testing.T) {
	n := newNetwork(t, 12, 4, 100)
	n.join()
	for i := range 5000 {
		n.write(n.peers[i%4], fmt.Sprintf("/registry/pods/%d", i), strings.Repeat("x", 500))
		n.run(200*time.Microsecond, nil)
	}
	n.mustConverge(20 * time.Second)
	fresh := n.add("peer-99", newReplica(99, 100))
	n.join()
	if !n.run(10*time.Second, func() bool { return fresh.replica.merged > 0 && fresh.core.snapshot != nil }) {
		t.Fatal("no snapshot began")
	}
	n.kill(n.byName[fresh.core.snapshot.peer])
	n.mustConverge(30 * time.Second)
	if c := fresh.core.counts; c.Snapshots < 2 || c.SnapshotsFailed == 0 {
		t.Errorf("the sender was not given up: %+v", c)
	}
}

func TestRestartedPeerCatchesUp(t *testing.T) {
	n := newNetwork(t, 13, 5, 1<<20)
	n.join()
	n.write(n.peers[4], "/registry/a", "1")
	n.mustConverge(5 * time.Second)
	n.kill(n.peers[4])
	for i := range 5000 {
		n.write(n.peers[i%4], fmt.Sprintf("/registry/pods/%d", i), "x")
		n.run(time.Millisecond, nil)
	}
	n.boot(n.peers[4])
	n.join()
	if took := n.mustConverge(20 * time.Second); took > 3*time.Second {
		t.Errorf("caught up after %v", took)
	}
	if c := n.peers[4].core.counts; c.Sets != 0 {
		t.Errorf("by sets although all is logged: %+v", c)
	}
}

// TestOverflow: what was dropped for a slow peer comes by anti-entropy at once.
func TestOverflow(t *testing.T) {
	n := newNetwork(t, 15, 2, 1<<20)
	n.ordered = true
	n.join()
	n.write(n.peers[0], "/registry/a", "1")
	n.write(n.peers[1], "/registry/b", "1")
	n.mustConverge(5 * time.Second)
	n.run(5*time.Second, nil)
	n.loss = 1
	for i := range 500 {
		n.write(n.peers[0], fmt.Sprintf("/registry/x/%d", i), "1")
	}
	n.loss = 0
	fetched := n.peers[1].core.counts.FetchedDeltas
	n.peers[0].core.Overflowed(n.peers[1].name, n.now)
	n.drain(n.peers[0])
	if took := n.mustConverge(5 * time.Second); took > 200*time.Millisecond {
		t.Errorf("equal after %v", took)
	}
	if got := n.peers[1].core.counts.FetchedDeltas - fetched; got < 400 {
		t.Errorf("%d of 500 were fetched", got)
	}
}
