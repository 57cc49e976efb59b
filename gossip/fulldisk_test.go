package gossip

import (
	"errors"
	"fmt"
	"testing"

	"shoal/store"
	"shoal/test/eventually"
)

// TestAFullDisk: a peer whose disk is full takes nothing in and still reads; the
// others neither wait for it nor lose it, and it catches up once there is space.
func TestAFullDisk(t *testing.T) {
	peers := startCell(t, "a", "b", "c")
	full := peers[2]
	peers[0].write("/registry/before", "x")
	eventually.True(t, "all equal", func() bool { return equalPeers(peers...) })
	full.stop()
	full.minFree = 1 << 62 // no disk has so much
	full.start()
	for i := range 200 {
		peers[0].write(fmt.Sprintf("/registry/meanwhile/%d", i), "x")
	}
	eventually.True(t, "the others are equal", func() bool { return equalPeers(peers[:2]...) })
	eventually.True(t, "it tries and fails", func() bool { return full.status().Counters.MergesFailed > 1 })
	if _, _, err := full.db.Get("/registry/before", store.Latest); err != nil {
		t.Errorf("a read: %v", err)
	}
	var noSpace *store.NoSpaceError
	if _, err := full.db.Update(t.Context(), store.Update{Key: "/registry/x", UID: "x"}); !errors.As(err, &noSpace) {
		t.Errorf("a write: %v", err)
	}
	if s := peers[0].status(); s.Counters.LinksCut > 0 {
		t.Errorf("%d links were cut", s.Counters.LinksCut)
	}
	full.stop()
	full.minFree = 0
	full.start()
	eventually.True(t, "it catches up", func() bool { return equalPeers(peers...) })
}
