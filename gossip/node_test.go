package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"shoal/store/vector"
)

func TestThreePeers(t *testing.T) {
	peers := startCell(t, "a", "b", "c")
	var took []time.Duration
	for i := range 200 {
		key, value := fmt.Sprintf("/registry/pods/default/%d", i), strings.Repeat("x", 1000)
		peers[i%3].write(key, value)
		began := time.Now()
		for _, p := range peers {
			for !p.has(key, value) {
				time.Sleep(200 * time.Microsecond)
				if time.Since(began) > 30*time.Second {
					t.Fatalf("%s is not on %s", key, p.name)
				}
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("visible on all: p50 %v, p99 %v", took[len(took)/2], took[len(took)*99/100])
	eventually(t, "all equal", func() bool { return equalPeers(peers...) })
	for _, p := range peers {
		if s := p.status(); s.Alarm != nil || s.Counters.LinksCut > 0 {
			t.Errorf("%s: %+v", p.name, s)
		}
	}
}

func TestRestart(t *testing.T) {
	peers := startCell(t, "a", "b", "c")
	peers[2].write("/registry/x", "before")
	eventually(t, "all equal", func() bool { return equalPeers(peers...) })
	peers[2].stop()
	for i := range 300 {
		peers[i%2].write(fmt.Sprintf("/registry/pods/%d", i), "x")
	}
	began := time.Now()
	peers[2].start()
	eventually(t, "it has caught up", func() bool { return equalPeers(peers...) })
	t.Logf("caught up %v after its start", time.Since(began))
	peers[2].write("/registry/x", "after")
	eventually(t, "its write is seen", func() bool { return peers[0].has("/registry/x", "after") && peers[1].has("/registry/x", "after") })
}

func TestRequest(t *testing.T) {
	peers := startCell(t, "a", "b")
	for _, to := range []string{"a", "b"} {
		got, err := peers[0].node.Request(t.Context(), to, "echo", []byte("hello"))
		if string(got) != "a hello" || err != nil {
			t.Errorf("asked %s: %q, %v", to, got, err)
		}
	}
	var remote *RemoteError
	if _, err := peers[0].node.Request(t.Context(), "b", "nothing", nil); !errors.As(err, &remote) {
		t.Errorf("a method that is not there: %v", err)
	}
	if _, err := peers[0].node.Request(t.Context(), "nobody", "echo", nil); err == nil {
		t.Error("a peer that is not there answered")
	}
}

func TestAdmitRefuses(t *testing.T) {
	a := newAuthority(t)
	var asked atomic.Int32
	strict := startPeer(t, a, "a", nil, func(o *Options) {
		o.Admit = func(peer string, _ vector.Actor, clock time.Time) error {
			asked.Add(1)
			return fmt.Errorf("%s was forgotten; run shoal leave there", peer)
		}
	})
	p := startPeer(t, a, "b", []string{strict.node.Address().String()}, nil)
	p.write("/registry/secret", "b's")
	strict.write("/registry/secret2", "a's")
	eventually(t, "it was refused several times", func() bool { return asked.Load() > 1 })
	if p.has("/registry/secret2", "a's") || strict.has("/registry/secret", "b's") {
		t.Error("records crossed")
	}
	if n := strict.linked(); n > 0 {
		t.Errorf("the one that refuses has %d links", n)
	}
	eventually(t, "the one refused has none either", func() bool { return p.linked() == 0 })
}

func TestAnotherCellIsNotHeard(t *testing.T) {
	p := startPeer(t, newAuthority(t), "a", nil, nil)
	q := startPeer(t, newAuthority(t), "b", []string{p.node.Address().String()}, nil)
	p.write("/registry/x", "p")
	q.write("/registry/y", "q")
	eventually(t, "membership knows both", func() bool { return len(p.node.Members()) == 2 && len(q.node.Members()) == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := q.node.Request(ctx, "a", "echo", nil); err == nil {
		t.Error("a peer of another cell answered")
	}
	if p.has("/registry/y", "q") || q.has("/registry/x", "p") {
		t.Error("records crossed")
	}
}

// TestOneLink: two peers that dial each other at once keep one link.
func TestOneLink(t *testing.T) {
	peers := startCell(t, "a", "b")
	for range 10 {
		for _, p := range peers {
			other := "a"
			if p.name == "a" {
				other = "b"
			}
			// Both lose the link at once, then both dial.
			p.node.do(t.Context(), func(now time.Duration) {
				if l := p.node.linkTo(other); l != nil {
					p.node.detach(l, now)
					l.end(errors.New("cut by the test"))
				}
				p.node.dialled[other] = nil
				delete(p.node.dialled, other)
				p.node.dial(p.node.context(), other, true)
			})
		}
		eventually(t, "both agree on one link", func() bool {
			l, m := peers[0].node.linkTo("b"), peers[1].node.linkTo("a")
			if l == nil || m == nil || l.dialled == m.dialled || l.ending() || m.ending() {
				return false
			}
			_, err := peers[0].node.Request(t.Context(), "b", "echo", nil)
			return err == nil
		})
	}
	peers[0].write("/registry/x", "1")
	eventually(t, "records travel", func() bool { return peers[1].has("/registry/x", "1") })
}
