package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
)

// The kubelet's defaults (imageGCHighThresholdPercent and its neighbours); by
// age alone nothing is collected.
const (
	CollectAbovePercent = 85
	CollectToPercent    = 80
	DefaultCollectAge   = 2 * time.Minute
)

// Reasons of the node's events.
const (
	ReasonCollectFailed = "ImageGCFailed"
	ReasonNotFreed      = "FreeDiskSpaceFailed"
)

// InUse names images that pods of this host use or will use.
type InUse func() []string

// SetInUse says which images may not be collected, beside those of containers.
// It is called before the store is used.
func (s *Store) SetInUse(in InUse) { s.inUse = in }

// Collect removes images that nothing uses, those used longest ago first, until
// bytes are free that were not before. It returns how many were freed; fewer
// than asked for is no error.
func (s *Store) Collect(ctx context.Context, bytes int64) (int64, error) {
	unused, err := s.unused(ctx, time.Now())
	if err != nil {
		return 0, err
	}
	var freed int64
	var problems []error
	for _, u := range unused {
		if freed >= bytes {
			break
		}
		_, before, known := s.FSStats(ctx)
		if err := s.dropUnusable(ctx, u.names...); err != nil {
			problems = append(problems, err)
			continue
		}
		// What is shared with other images stays, so the disk's word is better
		// than the image's size.
		gain := u.bytes
		if _, after, ok := s.FSStats(ctx); ok && known {
			gain = max(after-before, 0)
		}
		freed += gain
		s.o.Logger.Info("image collected to free disk space", "images", u.names, "freedBytes", gain)
	}
	return freed, errors.Join(problems...)
}

// unusedImage is an image that may go, with all its names.
type unusedImage struct {
	names       []string
	used, first time.Time
	bytes       int64
}

// unused lists what may go, in order.
func (s *Store) unused(ctx context.Context, now time.Time) ([]unusedImage, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	kept, err := s.kept(ctx, records)
	if err != nil {
		return nil, err
	}
	byDigest := map[digest.Digest]*unusedImage{}
	here := map[digest.Digest]bool{}
	for _, r := range records {
		d := r.Target.Digest
		here[d] = true
		used, first := s.use.seen(d, r.CreatedAt)
		if kept[d] || now.Sub(first) < s.o.CollectAge || now.Sub(used) < s.o.CollectAge {
			continue
		}
		u := byDigest[d]
		if u == nil {
			u = &unusedImage{used: used, first: first, bytes: s.measure(ctx, r).bytes}
			byDigest[d] = u
		}
		u.names = append(u.names, r.Name)
	}
	s.use.keepOnly(here)
	out := make([]unusedImage, 0, len(byDigest))
	for _, u := range byDigest {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b unusedImage) int {
		return cmp.Or(a.used.Compare(b.used), a.first.Compare(b.first), cmp.Compare(a.names[0], b.names[0]))
	})
	return out, nil
}

// kept are the digests that stay: pinned, of a container, or of a pod.
func (s *Store) kept(ctx context.Context, records []images.Image) (map[digest.Digest]bool, error) {
	containers, err := s.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	names := map[string]bool{}
	for _, c := range containers {
		names[c.Image] = true
	}
	if s.inUse != nil {
		for _, ref := range s.inUse() {
			if name, err := Normalize(ref); err == nil {
				names[name] = true
			}
		}
	}
	kept := map[digest.Digest]bool{}
	for _, r := range records {
		if names[r.Name] || r.Labels[labelPinned] == pinned {
			kept[r.Target.Digest] = true
		}
	}
	return kept, nil
}

// CollectPeriod is how often the disk is looked at, as in the kubelet.
const CollectPeriod = 5 * time.Minute

// KeepCollecting frees space whenever the file system of images is fuller than
// CollectAbovePercent, until ctx ends. tell gets the reason and the message of
// what went wrong, for an event of the node.
func (s *Store) KeepCollecting(ctx context.Context, tell func(reason, message string)) {
	tick := time.NewTicker(CollectPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.collectIfFull(ctx, tell)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) collectIfFull(ctx context.Context, tell func(reason, message string)) {
	capacity, available, ok := s.FSStats(ctx)
	if !ok || capacity == 0 {
		return
	}
	usage := 100 - available*100/capacity
	if usage < CollectAbovePercent {
		return
	}
	want := capacity*(100-CollectToPercent)/100 - available
	freed, err := s.Collect(ctx, want)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		tell(ReasonCollectFailed, fmt.Sprintf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %v", want, freed, err))
	case freed < want:
		tell(ReasonNotFreed, fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", usage, humanBytes(capacity), freed))
	}
}
