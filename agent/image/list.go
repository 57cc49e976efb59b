package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	v1 "k8s.io/api/core/v1"
)

// Summary is one image in a list.
type Summary struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"`        // digest of the image's configuration
	Digest    string    `json:"digest"`    // digest of the manifest or index
	SizeBytes int64     `json:"sizeBytes"` // compressed, all blobs of this platform
	CreatedAt time.Time `json:"createdAt"`
	Loaded    bool      `json:"loaded,omitempty"` // from an archive: no registry has it
	Pinned    bool      `json:"pinned,omitempty"` // kept from collection
}

// sizeCache remembers what an image of a digest weighs, and its configuration:
// both never change, and reading them costs several calls.
type sizeCache struct {
	mu    sync.Mutex
	known map[digest.Digest]measured // guarded by mu; at most configCacheMax
}

type measured struct {
	config string
	bytes  int64
}

// List returns all images, by name.
func (s *Store) List(ctx context.Context) ([]Summary, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	out := make([]Summary, 0, len(records))
	for _, r := range records {
		m := s.measure(ctx, r)
		out = append(out, Summary{
			Name: r.Name, Digest: r.Target.Digest.String(), CreatedAt: r.CreatedAt, ID: m.config, SizeBytes: m.bytes,
			Loaded: r.Labels[labelSource] == sourceImport, Pinned: r.Labels[labelPinned] == pinned,
		})
	}
	slices.SortFunc(out, func(a, b Summary) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// measure weighs an image; what is incomplete weighs nothing.
func (s *Store) measure(ctx context.Context, r images.Image) measured {
	s.sizes.mu.Lock()
	m, ok := s.sizes.known[r.Target.Digest]
	s.sizes.mu.Unlock()
	if ok {
		return m
	}
	handle := containerd.NewImageWithPlatform(s.client, r, platform)
	desc, err := handle.Config(ctx)
	if err != nil {
		return measured{}
	}
	m.config = desc.Digest.String()
	if m.bytes, err = handle.Size(ctx); err != nil {
		return m
	}
	s.sizes.mu.Lock()
	defer s.sizes.mu.Unlock()
	if s.sizes.known == nil || len(s.sizes.known) >= configCacheMax {
		s.sizes.known = map[digest.Digest]measured{}
	}
	s.sizes.known[r.Target.Digest] = m
	return m
}

// SizeOf is what an image weighs, compressed; 0 where that cannot be told.
func (s *Store) SizeOf(ctx context.Context, img *Image) int64 {
	record, err := s.client.ImageService().Get(ctx, img.Name)
	if err != nil {
		return 0
	}
	return s.measure(ctx, record).bytes
}

// nodeImagesMax is how many images a node's status names, the largest first,
// as the kubelet's nodeStatusMaxImages.
const nodeImagesMax = 50

// NodeImages is what a node's status says of its images.
func (s *Store) NodeImages(ctx context.Context) ([]v1.ContainerImage, error) {
	list, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	byDigest := map[string]*v1.ContainerImage{}
	for _, item := range list {
		entry := byDigest[item.Digest]
		if entry == nil {
			entry = &v1.ContainerImage{SizeBytes: item.SizeBytes}
			byDigest[item.Digest] = entry
		}
		if named, err := reference.ParseDockerRef(item.Name); err == nil {
			if full := named.Name() + "@" + item.Digest; !slices.Contains(entry.Names, full) && !item.Loaded {
				entry.Names = append(entry.Names, full)
			}
		}
		if !slices.Contains(entry.Names, item.Name) {
			entry.Names = append(entry.Names, item.Name)
		}
	}
	out := make([]v1.ContainerImage, 0, len(byDigest))
	for _, entry := range byDigest {
		out = append(out, *entry)
	}
	slices.SortFunc(out, func(a, b v1.ContainerImage) int {
		if c := cmp.Compare(b.SizeBytes, a.SizeBytes); c != 0 {
			return c
		}
		return strings.Compare(a.Names[0], b.Names[0])
	})
	return out[:min(len(out), nodeImagesMax)], nil
}

// Remove deletes the image's name; its content goes when nothing uses it.
func (s *Store) Remove(ctx context.Context, ref string) error {
	name, err := Normalize(ref)
	if err != nil {
		return err
	}
	return s.removeName(ctx, name)
}

func (s *Store) removeName(ctx context.Context, name string) error {
	err := s.client.ImageService().Delete(ctx, name, images.SynchronousDelete())
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image: %w: %s", ErrNotPresent, name)
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.known)
	return nil
}

// dropUnusable takes away names whose image cannot be used here.
func (s *Store) dropUnusable(ctx context.Context, names ...string) error {
	var problems []error
	for _, name := range names {
		if err := s.removeName(ctx, name); err != nil && !errors.Is(err, ErrNotPresent) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
