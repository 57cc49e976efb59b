// Package image keeps this host's images in containerd: pull, import, list
// and remove, and what a container needs to know of an image.
//
// Always true: names are Docker's (hello means docker.io/library/hello:latest);
// an image handed out by Get is unpacked for the snapshotter; pulls of one
// reference with the same credentials run once however many ask, and at most
// MaxParallelPulls run at a time.
//
// The pod runner and the agent's image endpoints call it. It does not decide
// whether an image should be pulled, and it never logs credentials.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"
)

// MaxParallelPulls bounds concurrent pulls: unpacking is disk and CPU work
// and more of it at once only makes each slower.
const MaxParallelPulls = 4

// configCacheMax bounds the cached image configurations; a host runs few
// different images.
const configCacheMax = 512

// ErrNotPresent says that the image is not on this host.
var ErrNotPresent = errors.New("image is not present on this host")

// Image is what a container needs to know of an image.
type Image struct {
	Name    string // normalised name
	ID      string // as in a container status: name@digest, or the config digest of an imported one
	Config  ocispec.ImageConfig
	ChainID string // parent of a container's snapshot
	Digest  digest.Digest
}

// Store is this host's images.
type Store struct {
	client      *containerd.Client
	snapshotter string
	pulls       singleflight.Group
	slots       chan struct{}

	mu sync.Mutex
	// known is by target digest; ID is the configuration's digest there,
	// since one image may have several names. Guarded by mu.
	known map[digest.Digest]*Image
}

// New returns the image store of client's namespace.
func New(client *containerd.Client, snapshotter string) *Store {
	return &Store{
		client:      client,
		snapshotter: snapshotter,
		slots:       make(chan struct{}, MaxParallelPulls),
		known:       map[digest.Digest]*Image{},
	}
}

// Normalize gives the full name Docker would use.
func Normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("parse image name %q: %w", ref, err)
	}
	return named.String(), nil
}

// Get returns an image that is on this host, unpacked, or ErrNotPresent.
func (s *Store) Get(ctx context.Context, ref string) (*Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	record, err := s.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w: %s", ErrNotPresent, name)
	}
	if err != nil {
		return nil, fmt.Errorf("look up image %s: %w", name, err)
	}
	if img := s.cached(record); img != nil {
		return img, nil
	}
	return s.load(ctx, record)
}

func (s *Store) cached(record images.Image) *Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.known[record.Target.Digest]
	if img == nil {
		return nil
	}
	out := *img
	out.Name = record.Name
	out.ID = statusID(record, img.ID)
	return &out
}

// load reads the image's configuration and makes sure it is unpacked.
func (s *Store) load(ctx context.Context, record images.Image) (*Image, error) {
	handle := containerd.NewImage(s.client, record)
	configDesc, err := handle.Config(ctx)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", record.Name, err)
	}
	data, err := content.ReadBlob(ctx, s.client.ContentStore(), configDesc)
	if err != nil {
		return nil, fmt.Errorf("read configuration of image %s: %w", record.Name, err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("decode configuration of image %s: %w", record.Name, err)
	}
	chain := identity.ChainID(config.RootFS.DiffIDs).String()
	if err := s.unpack(ctx, handle, chain); err != nil {
		return nil, err
	}
	img := &Image{Name: record.Name, ID: configDesc.Digest.String(), Config: config.Config, ChainID: chain, Digest: record.Target.Digest}
	s.mu.Lock()
	if len(s.known) >= configCacheMax {
		clear(s.known)
	}
	s.known[record.Target.Digest] = img
	s.mu.Unlock()
	return s.cached(record), nil
}

func (s *Store) unpack(ctx context.Context, handle containerd.Image, chain string) error {
	_, err, _ := s.pulls.Do("unpack "+chain, func() (any, error) {
		if _, err := s.client.SnapshotService(s.snapshotter).Stat(ctx, chain); err == nil {
			return nil, nil
		}
		return nil, handle.Unpack(ctx, s.snapshotter)
	})
	if err != nil {
		return fmt.Errorf("unpack image %s: %w", handle.Name(), err)
	}
	return nil
}

// Forget drops what is remembered of img; the next Get checks that it is
// unpacked. For callers that found its snapshot missing.
func (s *Store) Forget(img *Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, img.Digest)
}

// statusID is the imageID of a container status: pulled images are known by
// their registry digest, loaded ones only by their configuration.
func statusID(record images.Image, configDigest string) string {
	if record.Labels[labelSource] != sourcePull {
		return configDigest
	}
	named, err := reference.ParseDockerRef(record.Name)
	if err != nil {
		return configDigest
	}
	return reference.TrimNamed(named).Name() + "@" + record.Target.Digest.String()
}

const (
	labelSource  = "shoal.image/source"
	sourcePull   = "pull"
	sourceImport = "import"
)

// Summary is one image in a list.
type Summary struct {
	Name      string    `json:"name"`
	ID        string    `json:"id"`        // digest of the image's configuration
	Digest    string    `json:"digest"`    // digest of the manifest or index
	SizeBytes int64     `json:"sizeBytes"` // compressed, all blobs of this platform
	CreatedAt time.Time `json:"createdAt"`
}

// List returns all images, by name.
func (s *Store) List(ctx context.Context) ([]Summary, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	out := make([]Summary, 0, len(records))
	for _, r := range records {
		item := Summary{Name: r.Name, Digest: r.Target.Digest.String(), CreatedAt: r.CreatedAt}
		handle := containerd.NewImageWithPlatform(s.client, r, platforms.Default())
		if desc, err := handle.Config(ctx); err == nil {
			item.ID = desc.Digest.String()
		}
		if size, err := handle.Size(ctx); err == nil {
			item.SizeBytes = size
		}
		out = append(out, item)
	}
	slices.SortFunc(out, func(a, b Summary) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out, nil
}

// Remove deletes the image's name; its content goes when nothing uses it.
func (s *Store) Remove(ctx context.Context, ref string) error {
	name, err := Normalize(ref)
	if err != nil {
		return err
	}
	err = s.client.ImageService().Delete(ctx, name, images.SynchronousDelete())
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
