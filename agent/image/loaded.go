package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// loaded is what the name of a loaded image means on a host.
type loaded struct {
	Target   ocispec.Descriptor `json:"target"`
	LoadedAt time.Time          `json:"loadedAt"`

	peer string
}

// sayLoaded answers what a name means here, if it was loaded: no registry knows
// it, so peers do. What was pulled is not told: its registry decides who may
// have it.
func (s *Store) sayLoaded(w http.ResponseWriter, r *http.Request) {
	name, err := Normalize(r.FormValue("ref"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	record, err := s.client.ImageService().Get(r.Context(), name)
	if err != nil || record.Labels[labelSource] != sourceImport || s.o.ShareRate < 0 {
		http.Error(w, "this host has not loaded such an image", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(loaded{Target: record.Target, LoadedAt: record.UpdatedAt})
}

// PullLoaded brings an image that was loaded on another host of the cell, or
// returns ErrNotPresent. Where hosts differ, the one loaded last counts. from,
// if not empty, is a host that is known to have it.
func (s *Store) PullLoaded(ctx context.Context, ref, from string, report func(Progress)) (*Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	if report == nil {
		report = func(Progress) {}
	}
	found, ok := s.findLoaded(ctx, name, from)
	if !ok {
		return nil, fmt.Errorf("%w, nor loaded on the peers that were asked: %s", ErrNotPresent, name)
	}
	img, err := s.join(ctx, "loaded "+name+" "+found.Target.Digest.String(), name, report, func(ctx context.Context, p *progress) (*Image, error) {
		f := &fetch{s: s, from: found.peer, progress: p}
		record, err := s.fetchAll(ctx, f, name, found.Target, map[string]string{labelSource: sourceImport, labelPinned: pinned})
		if err != nil {
			return nil, err
		}
		return s.load(ctx, record)
	})
	if err != nil {
		return nil, fmt.Errorf("failed to get image %q, loaded on %s, from peers: %w", name, found.peer, err)
	}
	return img, nil
}

func (s *Store) findLoaded(ctx context.Context, name, from string) (loaded, bool) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	peers := s.some(name)
	if from != "" {
		peers = []string{from}
	}
	var mu sync.Mutex
	var all []loaded
	s.several(peers, func(peer string) {
		l, err := s.askLoaded(ctx, peer, name)
		if err != nil {
			return
		}
		mu.Lock()
		all = append(all, l)
		mu.Unlock()
	})
	if len(all) == 0 {
		return loaded{}, false
	}
	return slices.MaxFunc(all, func(a, b loaded) int { return a.LoadedAt.Compare(b.LoadedAt) }), true
}

func (s *Store) askLoaded(ctx context.Context, peer, name string) (loaded, error) {
	answer, err := s.request(ctx, http.MethodGet, peer, "loaded", url.Values{"ref": {name}}, nil)
	if err != nil {
		return loaded{}, err
	}
	defer answer.Body.Close()
	l := loaded{peer: peer}
	if err := json.NewDecoder(io.LimitReader(answer.Body, answerMax)).Decode(&l); err != nil {
		return loaded{}, fmt.Errorf("read the answer of %s: %w", peer, err)
	}
	return l, l.Target.Digest.Validate()
}
