package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal/gossip/rendezvous"
)

// Peers are the other hosts of the cell.
type Peers interface {
	// Alive names the other hosts that answer.
	Alive() []string
	// Agent is where a host's agent is, as https://HOST:PORT; empty if that is
	// not known.
	Agent(name string) string
	// Do sends a request to an agent, in the name of this host.
	Do(*http.Request) (*http.Response, error)
}

const (
	// trackWait is how long a tracker may keep a question open.
	trackWait = 10 * time.Second
	// peerTimeout bounds a short question to a peer, and noteTimeout a word
	// that needs no answer.
	peerTimeout, noteTimeout = 3 * time.Second, time.Second
	// probePeers is how many peers are asked whether they have something that
	// nobody is known to have.
	probePeers = 5
	// peerPatience is how long a blob is waited for while peers have it or
	// fetch it and give nothing, before the registry is asked after all.
	peerPatience = 2 * time.Minute
	// busyPause is about how long a host waits when all who have a blob have
	// enough to do.
	busyPause = 300 * time.Millisecond
)

// errAskRegistry says that peers are no help.
var errAskRegistry = errors.New("no peer has it")

// errBusy says that a peer gives to as many others as it may.
var errBusy = errors.New("the peer is busy")

// others are the peers to share with.
func (s *Store) others() []string {
	if s.o.Peers == nil || s.o.ShareRate < 0 {
		return nil
	}
	return s.o.Peers.Alive()
}

// fromPeers brings a blob from a peer, waiting for one that fetches it. The
// error is errAskRegistry when this host shall ask the registry.
func (f *fetch) fromPeers(ctx context.Context, desc ocispec.Descriptor) error {
	if len(f.s.others()) == 0 {
		return errAskRegistry
	}
	if f.from != "" && f.fromPeer(ctx, f.from, desc) == nil {
		f.s.note(ctx, f.s.keeper(desc.Digest), desc.Digest, blobHere)
		return nil
	}
	probed := false
	for patience := time.Now().Add(peerPatience); time.Now().Before(patience); {
		keeper := f.s.keeper(desc.Digest)
		answer := f.s.ask(ctx, keeper, desc.Digest)
		holders := slices.DeleteFunc(answer.Holders, f.isBad)
		if len(holders) == 0 && answer.Fetch && !probed {
			probed = true
			holders = f.s.probe(ctx, desc.Digest, keeper)
		}
		busy, err := f.fromAny(ctx, holders, desc)
		switch {
		case err == nil:
			f.s.note(ctx, keeper, desc.Digest, blobHere)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isNoSpace(err):
			return err
		case answer.Fetch && f.remote == nil:
			f.s.note(ctx, keeper, desc.Digest, blobGone)
			return errAskRegistry
		case answer.Fetch:
			return f.fromRegistryForAll(ctx, keeper, desc)
		case busy:
			if err := pause(ctx, busyPause/2+rand.N(busyPause)); err != nil {
				return err
			}
		case len(answer.Holders) > 0: // none of them was of use
			return errAskRegistry
		}
	}
	return errAskRegistry
}

// fromAny tries hosts in turn. busy says that one of them would give it later.
func (f *fetch) fromAny(ctx context.Context, holders []string, desc ocispec.Descriptor) (busy bool, err error) {
	err = errAskRegistry
	for _, peer := range holders {
		if err = f.fromPeer(ctx, peer, desc); err == nil || ctx.Err() != nil || isNoSpace(err) {
			return false, err
		}
		if errors.Is(err, errBusy) {
			busy = true
			continue
		}
		f.setBad(peer)
		f.s.note(ctx, f.s.keeper(desc.Digest), desc.Digest, blobGone, peer)
		f.s.o.Logger.Warn("a peer could not give a part of an image; another is asked", "peer", peer, "digest", desc.Digest, "error", err)
	}
	return busy, err
}

// fromRegistryForAll fetches while others wait for this host.
func (f *fetch) fromRegistryForAll(ctx context.Context, keeper string, desc ocispec.Descriptor) error {
	done := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(claimRenew)
		defer tick.Stop()
		for before := int64(-1); ; {
			select {
			case <-done:
				return
			case <-tick.C:
				if now := f.progress.bytes.Load(); now != before {
					before = now
					f.s.note(ctx, keeper, desc.Digest, blobFetching)
				}
			}
		}
	})
	err := f.fromRegistry(ctx, desc)
	close(done)
	renewing.Wait()
	state := blobHere
	if err != nil {
		state = blobGone
	}
	f.s.note(context.WithoutCancel(ctx), keeper, desc.Digest, state)
	return err
}

func (f *fetch) fromPeer(ctx context.Context, peer string, desc ocispec.Descriptor) error {
	from := source{name: "peer " + peer, peer: true, open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return f.s.open(ctx, peer, desc.Digest, offset)
	}}
	_, err := f.copy(ctx, from, desc)
	return err
}

// open reads a blob of a peer from an offset on.
func (s *Store) open(ctx context.Context, peer string, d digest.Digest, offset int64) (io.ReadCloser, error) {
	answer, err := s.request(ctx, http.MethodGet, peer, d.String(), nil, func(h http.Header) {
		if offset > 0 {
			h.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		}
	})
	if err != nil {
		return nil, err
	}
	if offset > 0 && answer.StatusCode == http.StatusOK {
		if err := skip(answer.Body, offset); err != nil {
			return nil, errors.Join(err, answer.Body.Close())
		}
	}
	return answer.Body, nil
}

// keeper is who keeps track of a blob.
func (s *Store) keeper(d digest.Digest) string {
	return rendezvous.First(d.String(), append(s.others(), s.o.Self))
}

// ask asks the keeper who has a blob. One that does not answer is like one that
// knows nothing.
func (s *Store) ask(ctx context.Context, keeper string, d digest.Digest) where {
	ctx, cancel := context.WithTimeout(ctx, trackWait+peerTimeout)
	defer cancel()
	if keeper == s.o.Self {
		ctx, cancel := context.WithTimeout(ctx, trackWait)
		defer cancel()
		return s.tracker.ask(ctx, d, s.o.Self, s.ownName(ctx, d))
	}
	answer, err := s.request(ctx, http.MethodPost, keeper, d.String()+"/where", url.Values{"host": {s.o.Self}}, nil)
	if err != nil {
		return where{Fetch: true}
	}
	defer answer.Body.Close()
	var out where
	if err := json.NewDecoder(io.LimitReader(answer.Body, answerMax)).Decode(&out); err != nil {
		return where{Fetch: true}
	}
	return out
}

// answerMax bounds a peer's answer that is no blob.
const answerMax = 64 << 10

// note tells the keeper of this host, or of another one that was named.
func (s *Store) note(ctx context.Context, keeper string, d digest.Digest, state blobState, of ...string) {
	host := s.o.Self
	if len(of) > 0 {
		host = of[0]
	}
	if keeper == s.o.Self {
		s.tracker.note(d, host, state)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	answer, err := s.request(ctx, http.MethodPost, keeper, d.String()+"/state", url.Values{"host": {host}, "state": {string(state)}}, nil)
	if err == nil {
		_ = answer.Body.Close()
	}
}

// probe asks some peers whether they have a blob.
func (s *Store) probe(ctx context.Context, d digest.Digest, keeper string) []string {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var mu sync.Mutex
	var have []string
	s.several(s.some(d.String(), keeper), func(peer string) {
		answer, err := s.request(ctx, http.MethodHead, peer, d.String(), nil, nil)
		if err != nil {
			return
		}
		_ = answer.Body.Close()
		mu.Lock()
		have = append(have, peer)
		mu.Unlock()
	})
	return have
}

// some chooses peers to ask about what: the one that most would ask, and others
// by chance.
func (s *Store) some(what string, not ...string) []string {
	peers := slices.DeleteFunc(slices.Clone(s.others()), func(p string) bool { return slices.Contains(not, p) })
	first := rendezvous.First(what, peers)
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	if at := slices.Index(peers, first); at > 0 {
		peers[0], peers[at] = peers[at], peers[0]
	}
	return peers[:min(len(peers), probePeers)]
}

// several does one thing for each of few peers at once.
func (s *Store) several(peers []string, do func(peer string)) {
	var wg sync.WaitGroup
	for _, peer := range peers {
		wg.Go(func() { do(peer) })
	}
	wg.Wait()
}

// request asks a peer's agent below SharePath; the answer is a good one.
func (s *Store) request(ctx context.Context, method, peer, path string, query url.Values, with func(http.Header)) (*http.Response, error) {
	base := s.o.Peers.Agent(peer)
	if base == "" {
		return nil, fmt.Errorf("ask %s: its agent's address is not known", peer)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+SharePath+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", peer, err)
	}
	if with != nil {
		with(req.Header)
	}
	answer, err := s.o.Peers.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", peer, err)
	}
	if answer.StatusCode < http.StatusMultipleChoices {
		return answer, nil
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 512))
	_ = answer.Body.Close()
	if answer.StatusCode == http.StatusServiceUnavailable {
		return nil, errBusy
	}
	return nil, fmt.Errorf("ask %s: %s: %s", peer, answer.Status, text)
}
