package gossip

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"shoal/gossip/membership"
	"shoal/test/eventually"
)

// TestALinkOutlivesDoubt: packets of membership can be lost while a link is fine.
// A peer called failed that answers on its link stays linked.
func TestALinkOutlivesDoubt(t *testing.T) {
	// Membership itself is to doubt nobody, however busy the host is.
	calm := func(o *Options) { o.Membership.ProbeEvery, o.Membership.ProbeTimeout = 10*time.Second, 5*time.Second }
	a := newAuthority(t)
	first := startPeer(t, a, "a", nil, calm)
	peers := []*testPeer{first, startPeer(t, a, "b", []string{first.node.Address().String()}, calm)}
	n := peers[0].node
	for tries := 1; ; tries++ {
		eventually.True(t, "one link", func() bool { return oneLink(t, peers[0], peers[1]) })
		why := outlivesDoubt(t, peers)
		if why == nil {
			break
		}
		// Both dial at the start, and of two links one is kept.
		if !errors.Is(why, errReplaced) || tries == 5 {
			t.Fatalf("the link has ended: %v", why)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.doubted["b"]; !ok {
		t.Error("b is not counted among those that are reached in spite of doubt")
	}
}

// outlivesDoubt has membership call the second peer failed, and gives the reason if
// the first one's link to it ends.
func outlivesDoubt(t *testing.T, peers []*testPeer) error {
	t.Helper()
	n := peers[0].node
	link := n.linkTo("b")
	other, _ := n.peer("b")
	n.ask(t.Context(), func(time.Duration) {
		n.changed(membership.Event{Kind: membership.Failed, Member: membership.Member{
			Name: "b", Address: netip.AddrPortFrom(other.Address, 1), Tags: other.Tags,
		}})
	})
	// Longer than it has to answer.
	for end := time.Now().Add(doubtFor + time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		goOn(t, peers...)
		if n.linkTo("b") != link {
			eventually.True(t, "the reason why the link ended", link.ending)
			link.mu.Lock()
			defer link.mu.Unlock()
			return link.why
		}
	}
	return nil
}
