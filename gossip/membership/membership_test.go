package membership

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"shoal/test/eventually"
)

var (
	keyA = bytes.Repeat([]byte{1}, 32)
	keyB = bytes.Repeat([]byte{2}, 32)
	fast = Timing{ProbeEvery: 200 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond, GossipEvery: 20 * time.Millisecond}
)

type peer struct {
	*Membership
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, o Options) *peer {
	t.Helper()
	if !o.Listen.IsValid() {
		o.Listen = netip.MustParseAddrPort("127.0.0.1:0")
	}
	o.Timing, o.Logger = fast, slog.New(slog.DiscardHandler)
	m, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{m, cancel, make(chan error, 1)}
	go func() { p.done <- m.Run(ctx) }()
	t.Cleanup(func() { p.stop(t) })
	return p
}

func (p *peer) stop(t *testing.T) {
	t.Helper()
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.cancel = nil
	if err := <-p.done; err != nil {
		t.Error(err)
	}
}

func (p *peer) names() []string {
	var names []string
	for _, m := range p.Members() {
		names = append(names, m.Name)
	}
	return names
}

func (p *peer) expect(t *testing.T, kind Kind, name string) Event {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case e := <-p.Events():
			if e.Kind == kind && e.Member.Name == name {
				return e
			}
		case <-timeout:
			t.Fatalf("never heard that %s %s", name, kind)
		}
	}
}

func cellOf(t *testing.T, n int) []*peer {
	t.Helper()
	var peers []*peer
	for i := range n {
		p := start(t, Options{Name: fmt.Sprintf("host%d", i), Keys: [][]byte{keyA}})
		if i > 0 {
			if _, err := p.Join([]string{peers[0].Address().String()}); err != nil {
				t.Fatal(err)
			}
		}
		peers = append(peers, p)
	}
	for _, p := range peers {
		eventually.True(t, "all are members", func() bool { return len(p.Members()) == n })
	}
	return peers
}

func TestFailureAndReturn(t *testing.T) {
	peers := cellOf(t, 2)
	// On an address of its own nobody else is given the port while it is down.
	own := netip.MustParseAddrPort(fmt.Sprintf("127.%d.%d.9:0", 1+os.Getpid()>>8&0x7f, os.Getpid()&0xff))
	third := start(t, Options{Name: "host2", Listen: own, Keys: [][]byte{keyA}})
	if _, err := third.Join([]string{peers[0].Address().String()}); err != nil {
		t.Fatal(err)
	}
	peers = append(peers, third)
	for _, p := range peers {
		eventually.True(t, "all are members", func() bool { return len(p.Members()) == 3 })
	}
	address := peers[2].Address()
	peers[2].stop(t)
	peers[0].expect(t, Failed, "host2")
	if slices.Contains(peers[0].names(), "host2") {
		t.Error("a failed peer is still a member")
	}
	back := start(t, Options{Name: "host2", Listen: address, Keys: [][]byte{keyA}})
	if _, err := back.Join([]string{peers[1].Address().String()}); err != nil {
		t.Fatal(err)
	}
	peers[0].expect(t, Joined, "host2")
	eventually.True(t, "host2 is a member again", func() bool { return slices.Contains(peers[0].names(), "host2") })
}

func TestLeave(t *testing.T) {
	peers := cellOf(t, 2)
	if err := peers[1].Leave(); err != nil {
		t.Fatal(err)
	}
	peers[0].expect(t, Left, "host1")
}

func TestTags(t *testing.T) {
	peers := cellOf(t, 2)
	if err := peers[1].SetTag(FrontierTag, "abc"); err != nil {
		t.Fatal(err)
	}
	if e := peers[0].expect(t, Updated, "host1"); e.Member.Tags[FrontierTag] != "abc" {
		t.Errorf("tags are %v", e.Member.Tags)
	}
	if err := peers[1].SetTag("big", string(make([]byte, 600))); err == nil {
		t.Error("tags of 600 bytes were taken")
	}
	if err := peers[1].SetTag(FrontierTag, "def"); err != nil {
		t.Errorf("after a refused tag: %v", err)
	}
}

func TestCoordinates(t *testing.T) {
	peers := cellOf(t, 2)
	eventually.True(t, "an estimate", func() bool { _, ok := peers[0].RTT("host1"); return ok })
	if rtt, _ := peers[0].RTT("host1"); rtt <= 0 || rtt > time.Second {
		t.Errorf("the other peer on this host is %v away", rtt)
	}
	if _, ok := peers[0].RTT("nobody"); ok {
		t.Error("an estimate for nobody")
	}
}

func TestKeys(t *testing.T) {
	peers := cellOf(t, 3)
	stranger := start(t, Options{Name: "stranger", Keys: [][]byte{keyB}})
	if _, err := stranger.Join([]string{peers[0].Address().String()}); err == nil {
		t.Error("a peer with another key joined")
	}
	// One that answers late has it done again.
	eventually.True(t, "all took the new key", func() bool { return peers[1].RotateKey(keyB) == nil })
	late := start(t, Options{Name: "late", Keys: [][]byte{keyA}})
	if _, err := late.Join([]string{peers[0].Address().String()}); err == nil {
		t.Error("a peer with the old key joined")
	}
	if _, err := stranger.Join([]string{peers[0].Address().String()}); err != nil {
		t.Errorf("a peer with the new key: %v", err)
	}
	if err := peers[0].RotateKey([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
	for _, p := range peers {
		eventually.True(t, "all talk with the new key", func() bool { return len(p.Members()) == 4 })
	}
}

func TestStartRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no key":    {Name: "a"},
		"no name":   {Keys: [][]byte{keyA}},
		"bad key":   {Name: "a", Keys: [][]byte{{1}}},
		"long tags": {Name: "a", Keys: [][]byte{keyA}, Tags: map[string]string{"t": string(make([]byte, 500))}},
	} {
		if _, err := Start(o); err == nil {
			t.Errorf("%s: started", name)
		}
	}
}
