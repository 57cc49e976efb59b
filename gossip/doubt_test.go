package gossip

import (
	"net/netip"
	"testing"
	"time"

	"shoal/gossip/membership"
	"shoal/test/eventually"
)

// TestALinkOutlivesDoubt: packets of membership can be lost while a link is fine.
// A peer called failed that answers on its link stays linked.
func TestALinkOutlivesDoubt(t *testing.T) {
	peers := startCell(t, "a", "b")
	n := peers[0].node
	eventually.True(t, "a link", func() bool { return n.linkTo("b") != nil })
	link := n.linkTo("b")
	other, _ := n.peer("b")
	n.ask(t.Context(), func(time.Duration) {
		n.changed(membership.Event{Kind: membership.Failed, Member: membership.Member{
			Name: "b", Address: netip.AddrPortFrom(other.Address, 1), Tags: other.Tags,
		}})
	})
	// Longer than it has to answer.
	for end := time.Now().Add(doubtFor + time.Second); time.Now().Before(end); {
		goOn(t, peers...)
		if n.linkTo("b") != link {
			t.Fatal("the link has ended")
		}
		time.Sleep(100 * time.Millisecond)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.doubted["b"]; !ok {
		t.Error("b is not counted among those that are reached in spite of doubt")
	}
}
