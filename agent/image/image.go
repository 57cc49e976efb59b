// Package image keeps this host's images in containerd: pull from registries
// and peers, import, push, list, remove and collect, and what a container needs
// to know of an image.
//
// Always true: names are Docker's (hello means docker.io/library/hello:latest);
// an image handed out by Get is unpacked for the snapshotter and made for this
// platform; pulls of one reference with the same credentials run once however
// many ask, and at most MaxParallelPulls run at a time; every blob was checked
// against its digest by containerd, whoever gave it.
//
// # Who may have what
//
// A name becomes a digest at its registry, with the pod's own credentials; an
// image that was loaded from an archive has no registry, and peers say what its
// name means. Only then are blobs asked for, by digest, of peers first. A host
// of the cell gives any blob to any other: each of them is as trusted as the
// asker, and each makes sure by itself that a pod proved its rights before it
// may use an image that needed a secret (access.go, KEP 2535).
//
// The pod runner and the agent's image endpoints call it. It does not decide
// whether an image should be pulled, and it never logs credentials.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
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

	access access
}

// Config is what a Store knows of its host and cell. The zero value is a host
// alone, with Docker's rules for registries.
type Config struct {
	Self      string   // this host's name
	Peers     Peers    // nil: none
	HostDirs  []string // of registries' hosts.toml, as containerd's certs.d; the first that fits counts
	AuthFile  string   // Docker's config.json, good for every pod of this host; empty: none
	ShareRate int64    // bytes per second given to peers; 0: DefaultShareRate, negative: nothing is shared
	// ReserveBytes stay free on the file system of images; 0: DefaultReserve.
	ReserveBytes int64
	// CollectAge is how long an image stays after it was seen first or used last;
	// 0: DefaultCollectAge, negative: not at all.
	CollectAge time.Duration
	// StallTimeout is how long a transfer may go without a byte; 0: the default.
	StallTimeout time.Duration
	Logger       *slog.Logger
}

// Store is this host's images.
type Store struct {
	client      *containerd.Client
	snapshotter string
	o           Config
	units       singleflight.Group // unpacking, by chain
	slots       chan struct{}      // running pulls
	blobs       chan struct{}      // blobs being fetched
	uploads     chan struct{}      // blobs being given to peers
	rate        *rate.Limiter      // of uploads
	tracker     *tracker
	root        fsRoot
	sizes       sizeCache
	use         usage
	inUse       InUse // nil: only containers count

	mu sync.Mutex
	// known is by target digest; ID is the configuration's digest there,
	// since one image may have several names. Guarded by mu.
	known map[digest.Digest]*Image
	runs  map[string]*run // guarded by mu
}

// New returns the image store of client's namespace, on a host alone.
func New(client *containerd.Client, snapshotter string) *Store {
	return NewInCell(client, snapshotter, Config{})
}

// NewInCell returns the image store of client's namespace.
func NewInCell(client *containerd.Client, snapshotter string, o Config) *Store {
	o.fill()
	return &Store{
		client:      client,
		snapshotter: snapshotter,
		o:           o,
		slots:       make(chan struct{}, MaxParallelPulls),
		blobs:       make(chan struct{}, maxBlobs),
		uploads:     make(chan struct{}, maxUploads),
		rate:        rate.NewLimiter(rate.Limit(max(o.ShareRate, 0)), shareBurst),
		tracker:     newTracker(time.Now),
		known:       map[digest.Digest]*Image{},
		runs:        map[string]*run{},
	}
}

func (o *Config) fill() {
	if o.ShareRate == 0 {
		o.ShareRate = DefaultShareRate
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = DefaultReserve
	}
	if o.CollectAge == 0 {
		o.CollectAge = DefaultCollectAge
	}
	if o.StallTimeout == 0 {
		o.StallTimeout = stallTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
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
		record, err = s.sameDigest(ctx, name)
	}
	if errors.Is(err, ErrNotPresent) {
		return nil, err
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
	out.access = accessOf(record.Labels)
	s.use.touch(record.Target.Digest)
	return &out
}

// sameDigest finds an image that was asked for by digest under another name
// of its repository, and gives it this name too.
func (s *Store) sameDigest(ctx context.Context, name string) (images.Image, error) {
	absent := fmt.Errorf("%w: %s", ErrNotPresent, name)
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return images.Image{}, absent
	}
	wanted, ok := named.(reference.Digested)
	if !ok {
		return images.Image{}, absent
	}
	records, err := s.client.ImageService().List(ctx, "target.digest=="+wanted.Digest().String())
	if err != nil {
		return images.Image{}, fmt.Errorf("look for an image of digest %s: %w", wanted.Digest(), err)
	}
	for _, record := range records {
		other, err := reference.ParseDockerRef(record.Name)
		if err != nil || other.Name() != named.Name() {
			continue
		}
		record.Name = name
		created, err := s.client.ImageService().Create(ctx, record)
		if errdefs.IsAlreadyExists(err) {
			return s.client.ImageService().Get(ctx, name)
		}
		return created, err
	}
	return images.Image{}, absent
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
	if err := checkPlatform(config.Platform); err != nil {
		return nil, fmt.Errorf("image %s: %w", record.Name, err)
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
	_, err, _ := s.units.Do(chain, func() (any, error) {
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

// Labels of an image's record. They are the store's whole memory: containerd
// keeps them, and they end with the image.
const (
	labelSource  = "shoal.image/source"
	sourcePull   = "pull"   // from a registry
	sourceImport = "import" // from an archive, here or on a peer
	// labelPinned keeps an image from collection; containerd's CRI plug-in
	// and its tools know the same label.
	labelPinned = "io.cri-containerd.pinned"
	pinned      = "pinned"
)
