package gossip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"shoal/store/vector"
	"shoal/test/eventually"
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
				if time.Since(began) > 3*time.Minute {
					t.Fatalf("%s is not on %s", key, p.name)
				}
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("visible on all: p50 %v, p99 %v", took[len(took)/2], took[len(took)*99/100])
	eventually.True(t, "all equal", func() bool { return equalPeers(peers...) })
	for _, p := range peers {
		if s := p.status(); s.Alarm != nil || s.Counters.LinksCut > 0 {
			t.Errorf("%s: %+v", p.name, s)
		}
	}
}

func TestRestart(t *testing.T) {
	peers := startCell(t, "a", "b", "c")
	peers[2].write("/registry/x", "before")
	eventually.True(t, "all equal", func() bool { return equalPeers(peers...) })
	peers[2].stop()
	for i := range 300 {
		peers[i%2].write(fmt.Sprintf("/registry/pods/%d", i), "x")
	}
	began := time.Now()
	peers[2].start()
	eventually.True(t, "it has caught up", func() bool { return equalPeers(peers...) })
	t.Logf("caught up %v after its start", time.Since(began))
	peers[2].write("/registry/x", "after")
	eventually.True(t, "its write is seen", func() bool { return peers[0].has("/registry/x", "after") && peers[1].has("/registry/x", "after") })
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
	eventually.True(t, "it was refused several times", func() bool { return asked.Load() > 1 })
	if p.has("/registry/secret2", "a's") || strict.has("/registry/secret", "b's") {
		t.Error("records crossed")
	}
	if n := strict.linked(); n > 0 {
		t.Errorf("the one that refuses has %d links", n)
	}
	eventually.True(t, "the one refused has none either", func() bool { return p.linked() == 0 })
}

func TestAnotherCellIsNotHeard(t *testing.T) {
	p := startPeer(t, newAuthority(t), "a", nil, nil)
	q := startPeer(t, newAuthority(t), "b", []string{p.node.Address().String()}, nil)
	p.write("/registry/x", "p")
	q.write("/registry/y", "q")
	eventually.True(t, "membership knows both", func() bool { return len(p.node.Members()) == 2 && len(q.node.Members()) == 2 })
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
		eventually.True(t, "both agree on one link", func() bool { return oneLink(t, peers[0], peers[1]) })
	}
	peers[0].write("/registry/x", "1")
	eventually.True(t, "records travel", func() bool { return peers[1].has("/registry/x", "1") })
}

// oneLink reports whether two peers have one link between them, which answers.
func oneLink(t *testing.T, a, b *testPeer) bool {
	l, m := a.node.linkTo(b.name), b.node.linkTo(a.name)
	if l == nil || m == nil || l.dialled == m.dialled || l.ending() || m.ending() {
		return false
	}
	_, err := a.node.Request(t.Context(), b.name, "echo", nil)
	return err == nil
}

// TestShortLinks: peers that are no neighbours reach each other for requests and
// for anti-entropy, over links that close when idle.
func TestShortLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("starts nine peers")
	}
	a := newAuthority(t)
	timing := DefaultTiming
	timing.Exchange, timing.Idle = 300*time.Millisecond, 500*time.Millisecond
	var peers []*testPeer
	var seeds []string
	for i := range 9 {
		p := startPeer(t, a, fmt.Sprintf("peer-%d", i), seeds, func(o *Options) { o.Timing = timing })
		seeds = append(seeds, p.node.Address().String())
		peers = append(peers, p)
	}
	for _, p := range peers {
		eventually.True(t, p.name+" has its neighbours", func() bool {
			return len(p.node.Members()) == len(peers) && p.linked() >= len(p.node.neighbours())
		})
	}
	first := peers[0]
	near := first.node.neighbours()
	far := slices.DeleteFunc(slices.Clone(peers), func(p *testPeer) bool { return p == first || slices.Contains(near, p.name) })
	if len(far) == 0 {
		t.Fatalf("all are neighbours: %v", near)
	}
	for _, p := range far {
		got, err := first.node.Request(t.Context(), p.name, "echo", []byte("x"))
		if string(got) != first.name+" x" || err != nil {
			t.Errorf("asked %s: %q, %v", p.name, got, err)
		}
	}
	for i, p := range peers {
		p.write(fmt.Sprintf("/registry/x/%d", i), "1")
	}
	eventually.True(t, "all equal", func() bool { return equalPeers(peers...) })
	met := map[string]bool{}
	closed := false
	eventually.True(t, "it exchanged with those far away, and such links closed", func() bool {
		for _, s := range first.status().Peers {
			if !slices.Contains(near, s.Name) {
				met[s.Name] = met[s.Name] || s.Connected && !s.Exchanged.IsZero()
				closed = closed || met[s.Name] && !s.Connected
			}
		}
		for _, p := range far {
			if !met[p.name] {
				return false
			}
		}
		return closed
	})
	for _, p := range peers {
		if s := p.status(); s.Counters.LinksCut > 0 {
			t.Errorf("%s: %+v", p.name, s.Counters)
		}
	}
}

// TestLostMemberIsMetAgain: a peer that failed comes back at its old address
// and knows nobody; the others find it.
func TestLostMemberIsMetAgain(t *testing.T) {
	peers := startCell(t, "a", "b")
	// On an address of its own nobody else is given the port while it is down.
	own := netip.MustParseAddrPort(fmt.Sprintf("127.%d.%d.9:0", 1+os.Getpid()>>8&0x7f, os.Getpid()&0xff))
	c := startPeer(t, peers[0].authority, "c", []string{peers[0].node.Address().String()}, func(o *Options) { o.Gossip, o.Streams = own, own })
	for _, p := range append(peers, c) {
		eventually.True(t, p.name+" has all links", func() bool { return p.linked() == 2 })
	}
	address := c.node.Address()
	c.stop()
	eventually.True(t, "the others see it fail", func() bool {
		return len(peers[0].node.Members()) == 2 && len(peers[1].node.Members()) == 2 && len(peers[0].node.someLost()) == 1
	})
	peers[0].write("/registry/x", "1")
	c.seeds, c.adapt = nil, func(o *Options) { o.Gossip, o.Streams = address, own }
	began := time.Now()
	c.start()
	eventually.True(t, "it has what it missed", func() bool { return c.has("/registry/x", "1") })
	t.Logf("met again and equal after %v", time.Since(began))
	eventually.True(t, "nobody looks for it any more", func() bool {
		return len(peers[0].node.someLost()) == 0 && len(peers[1].node.someLost()) == 0
	})
}
