package image

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// trackedMax bounds the blobs a tracker remembers; the one not asked for
	// longest goes first. Forgetting costs a question to peers.
	trackedMax = 4096
	// holdersMax bounds the hosts remembered for one blob, and holdersTold
	// those that one host is sent to.
	holdersMax, holdersTold = 32, 8
	// claimLife is how long a host that fetches from a registry is waited for
	// without a word from it; it says one every claimRenew.
	claimLife  = 15 * time.Second
	claimRenew = 5 * time.Second
)

// tracker lets one host of the cell fetch a blob from its registry while the
// others wait, and then tells who has it. For each digest one host keeps this,
// chosen by rendezvous; it is soft state, and losing it costs a fetch at most.
type tracker struct {
	now func() time.Time

	mu    sync.Mutex
	blobs map[digest.Digest]*tracked // guarded by mu
}

type tracked struct {
	holders []string // the newest last
	claim   string   // who fetches it from a registry; empty: nobody
	until   time.Time
	touched time.Time
	changed chan struct{} // closed with each change
}

func newTracker(now func() time.Time) *tracker {
	return &tracker{now: now, blobs: map[digest.Digest]*tracked{}}
}

// where is an answer to who has a blob.
type where struct {
	Holders []string `json:"holders,omitempty"` // not the asker, in an order to try them in
	// Fetch is set when nobody has it or is fetching it: the asker shall, and
	// is waited for.
	Fetch bool `json:"fetch,omitempty"`
}

// ask answers host, and waits for news until ctx ends where another host is
// fetching the blob. own is this host's name if it has the blob itself.
func (t *tracker) ask(ctx context.Context, d digest.Digest, host, own string) where {
	for {
		answer, changed := t.look(d, host, own)
		if changed == nil {
			return answer
		}
		timer := time.NewTimer(claimLife / 3) // claims run out without a word
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return where{}
		}
		timer.Stop()
	}
}

// look answers, or returns what to wait for.
func (t *tracker) look(d digest.Digest, host, own string) (where, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.get(d)
	var holders []string
	if own != "" && own != host {
		holders = append(holders, own)
	}
	for _, h := range b.holders {
		if h != host && h != own {
			holders = append(holders, h)
		}
	}
	if len(holders) > 0 {
		rand.Shuffle(len(holders), func(i, j int) { holders[i], holders[j] = holders[j], holders[i] })
		return where{Holders: holders[:min(len(holders), holdersTold)]}, nil
	}
	if b.claim != "" && b.claim != host && t.now().Before(b.until) {
		return where{}, b.changed
	}
	b.claim, b.until = host, t.now().Add(claimLife)
	return where{Fetch: true}, nil
}

// note takes what a host says of itself: that it goes on fetching, that it has
// the blob, or that it has not.
func (t *tracker) note(d digest.Digest, host string, state blobState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.get(d)
	if state == blobFetching {
		if b.claim == host {
			b.until = t.now().Add(claimLife)
		}
		return
	}
	b.holders = slices.DeleteFunc(b.holders, func(h string) bool { return h == host })
	if state == blobHere {
		if len(b.holders) >= holdersMax {
			b.holders = slices.Delete(b.holders, 0, 1)
		}
		b.holders = append(b.holders, host)
	}
	if b.claim == host {
		b.claim = ""
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// blobState is what a host says of a blob.
type blobState string

const (
	blobFetching blobState = "fetching"
	blobHere     blobState = "here"
	blobGone     blobState = "gone" // also: it could not be fetched
)

// get is called with mu held.
func (t *tracker) get(d digest.Digest) *tracked {
	b := t.blobs[d]
	if b == nil {
		if len(t.blobs) >= trackedMax {
			t.dropOldest()
		}
		b = &tracked{changed: make(chan struct{})}
		t.blobs[d] = b
	}
	b.touched = t.now()
	return b
}

func (t *tracker) dropOldest() {
	var oldest digest.Digest
	for d, b := range t.blobs {
		if oldest == "" || b.touched.Before(t.blobs[oldest].touched) {
			oldest = d
		}
	}
	close(t.blobs[oldest].changed)
	delete(t.blobs, oldest)
}
