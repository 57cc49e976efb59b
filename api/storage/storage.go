package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"

	"shoal/store"
)

// Storage keeps the objects of one resource.
type Storage struct {
	db          *store.DB
	codec       runtime.Codec
	transformer value.Transformer
	versioner   storage.Versioner
	resource    schema.GroupResource
	newFunc     func() runtime.Object
	// pathPrefix and resourcePrefix together are what keys begin with.
	pathPrefix     string
	resourcePrefix string
	// cell says whose versions are not ours, and whom to ask about them.
	cell Cell

	// bookmarkEvery and progressEvery pace bookmarks for clients that allow
	// them and for internal ones that ask for progress.
	bookmarkEvery time.Duration
	progressEvery time.Duration
	progress      progressRequests

	// measured: Stats also reports sizes.
	measured atomic.Bool
	// markCorrupt: what cannot be decoded is marked as such.
	markCorrupt bool
	// ctx ends with the storage, and with it all its watches.
	ctx     context.Context
	cancel  context.CancelFunc
	watches sync.WaitGroup
	// starting guards watches against being added to while Destroy waits.
	starting sync.Mutex
}

var _ storage.Interface = (*Storage)(nil)

const (
	// bookmarkEvery matches what clients see from the watch cache elsewhere.
	bookmarkEvery = time.Minute
	// progressEvery matches what etcd is usually set to.
	progressEvery = 5 * time.Second
)

// Decorator makes a Storage on db for every resource that asks, and keeps it
// in set, which may be nil, until it is destroyed.
func Decorator(db *store.DB, cell Cell, set *Set) generic.StorageDecorator {
	return func(
		config *storagebackend.ConfigForResource,
		resourcePrefix string,
		_ func(obj runtime.Object) (string, error),
		newFunc func() runtime.Object,
		newListFunc func() runtime.Object,
		_ storage.AttrFunc,
		_ storage.IndexerFuncs,
		_ *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		s, err := New(db, config, resourcePrefix, newFunc, cell)
		if err != nil {
			return nil, nil, err
		}
		set.add(s)
		return s, func() { set.remove(s); s.Destroy() }, nil
	}
}

// New returns a Storage for config's resource, with keys under resourcePrefix.
// newFunc makes the empty objects that bookmarks carry.
func New(db *store.DB, config *storagebackend.ConfigForResource, resourcePrefix string, newFunc func() runtime.Object, cell Cell) (*Storage, error) {
	if resourcePrefix == "" || resourcePrefix == "/" || resourcePrefix[0] != '/' {
		return nil, fmt.Errorf("make storage of %s: resource prefix %q must begin with / and name something", config.GroupResource, resourcePrefix)
	}
	s := &Storage{
		db:             db,
		codec:          config.Codec,
		transformer:    config.Transformer,
		versioner:      storage.APIObjectVersioner{},
		resource:       config.GroupResource,
		newFunc:        newFunc,
		pathPrefix:     cleanPrefix(config.Prefix),
		resourcePrefix: resourcePrefix,
		cell:           cell,
		bookmarkEvery:  bookmarkEvery,
		progressEvery:  progressEvery,
	}
	if s.transformer == nil {
		s.transformer = identity.NewEncryptCheckTransformer()
	}
	if unsafeDeletionEnabled() {
		s.transformer = corruptTransformer{s.transformer}
		s.markCorrupt = true
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func cleanPrefix(prefix string) string {
	p := path.Join("/", prefix)
	if !strings.HasSuffix(p, "/") {
		p += "/"
	}
	return p
}

// Destroy ends all watches and waits for them. The database stays open.
// It may be called more than once, as subresources share their parent's storage.
func (s *Storage) Destroy() {
	s.starting.Lock()
	s.cancel()
	s.starting.Unlock()
	s.watches.Wait()
}

// Resource returns what the storage keeps.
func (s *Storage) Resource() schema.GroupResource { return s.resource }

// Versioner reads and writes resourceVersions in objects, and makes those that
// other peers issued comparable with ours.
func (s *Storage) Versioner() storage.Versioner { return translating{s: s} }

// ReadinessCheck reports whether requests can be served.
func (s *Storage) ReadinessCheck() error {
	if s.ctx.Err() != nil {
		return storage.ErrStorageNotReady
	}
	return nil
}

// GetCurrentResourceVersion returns the newest version that reads see.
func (s *Storage) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return uint64(s.db.Version()), nil
}

// CompactRevision returns the version before which history was last cut off,
// 0 if that has not happened yet.
func (s *Storage) CompactRevision() int64 { return int64(s.db.Compacted()) }

// key returns the store's key for a registry key.
func (s *Storage) key(key string, recursive bool) (string, error) {
	key, err := storage.PrepareKey(s.resourcePrefix, key, recursive)
	if err != nil {
		return "", err
	}
	return s.pathPrefix + strings.TrimPrefix(key, "/"), nil
}

// decode turns stored bytes into an object at the given version: into, if the
// codec can use it, or a new one.
func (s *Storage) decode(ctx context.Context, key string, stored []byte, version store.Version, into runtime.Object) (runtime.Object, error) {
	data, _, err := s.transformer.TransformFromStorage(ctx, stored, value.DefaultContext(key))
	if err != nil {
		return nil, storage.NewInternalError(fmt.Errorf("unable to transform key %q: %w", key, err))
	}
	return s.decodePlain(data, version, into)
}

// decodePlain is decode without the transformer.
func (s *Storage) decodePlain(data []byte, version store.Version, into runtime.Object) (runtime.Object, error) {
	obj, _, err := s.codec.Decode(data, nil, into)
	if err != nil && s.markCorrupt {
		return nil, &corruptError{what: "object not decodable", err: err}
	}
	if err != nil {
		return nil, err
	}
	if err := s.versioner.UpdateObject(obj, uint64(version)); err != nil {
		return nil, fmt.Errorf("set resource version: %w", err)
	}
	return obj, nil
}

// fill decodes data into out, which must be what the codec fills.
func (s *Storage) fill(data []byte, version store.Version, out runtime.Object) error {
	obj, err := s.decodePlain(data, version, out)
	if err == nil && obj != out {
		return fmt.Errorf("decode %s: the codec made a %T instead of filling the %T given", s.resource, obj, out)
	}
	return err
}

// checkMinimum fails when the caller wants something newer than version, of
// this peer's own: others' were waited for before the read.
func (s *Storage) checkMinimum(minimum string, version store.Version) error {
	if minimum == "" {
		return nil
	}
	wanted, err := s.versioner.ParseResourceVersion(minimum)
	if err != nil {
		return badResourceVersion(err)
	}
	if store.Version(wanted) > version && !s.cell.foreign(store.Version(wanted)) {
		return storage.NewTooLargeResourceVersionError(wanted, uint64(version), 0)
	}
	return nil
}

// Get reads the object at key into out.
func (s *Storage) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	key, err := s.key(key, false)
	if err != nil {
		return err
	}
	if err := s.reachText(ctx, opts.ResourceVersion); err != nil {
		return err
	}
	entry, version, err := s.db.Get(key, store.Latest)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fromStore(key, err)
	}
	if minErr := s.checkMinimum(opts.ResourceVersion, version); minErr != nil {
		return minErr
	}
	if err != nil {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	data, _, err := s.transformer.TransformFromStorage(ctx, entry.Value, value.DefaultContext(key))
	if err != nil {
		return asCorrupt(key, storage.NewInternalError(err))
	}
	return asCorrupt(key, s.fill(data, entry.Version, out))
}
