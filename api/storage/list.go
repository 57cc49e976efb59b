package storage

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"shoal/store"
)

// listing is one GetList in progress.
type listing struct {
	*Storage
	ctx   context.Context
	key   string
	opts  storage.ListOptions
	items reflect.Value
	// newItem makes an empty object of the list's kind.
	newItem func() runtime.Object
	// lastKey is the last one considered; more says that others follow.
	lastKey string
	more    bool
	errs    itemErrors
}

// GetList reads the objects at or under key into list, all as of one version.
func (s *Storage) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	key, err := s.key(key, opts.Recursive)
	if err != nil {
		return err
	}
	l, err := s.newListing(ctx, key, opts, list)
	if err != nil {
		return err
	}
	at, continueKey, err := storage.ValidateListOptions(key, s.versioner, opts)
	if err != nil {
		return err
	}
	if err := l.prepare(store.Version(at), continueKey); err != nil {
		return err
	}
	version, err := l.read(store.Version(at), continueKey)
	if err != nil {
		return err
	}
	return l.finish(list, version)
}

func (s *Storage) newListing(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) (*listing, error) {
	ptr, err := meta.GetItemsPtr(list)
	if err != nil {
		return nil, err
	}
	items, err := conversion.EnforcePtr(ptr)
	if err != nil || items.Kind() != reflect.Slice {
		return nil, fmt.Errorf("list %s: items must be a pointer to a slice, not %T", s.resource, ptr)
	}
	return &listing{Storage: s, ctx: ctx, key: key, opts: opts, items: items, newItem: newItemFunc(list, items)}, nil
}

// prepare deals with versions of other peers: what they read exactly is not
// here, what they had at least can be waited for.
func (l *listing) prepare(at store.Version, continueKey string) error {
	switch {
	case at == store.Latest && continueKey == "":
		return l.reachText(l.ctx, l.opts.ResourceVersion)
	case !l.cell.foreign(at):
		return nil
	case continueKey != "":
		return pageTooOld(continueKey, l.key)
	}
	return fromStore(l.key, store.ErrExpired)
}

// newItemFunc keeps an unstructured list's version in its items.
func newItemFunc(list runtime.Object, items reflect.Value) func() runtime.Object {
	if u, ok := list.(*unstructured.UnstructuredList); ok && u.GetAPIVersion() != "" {
		version := u.GetAPIVersion()
		return func() runtime.Object {
			return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version}}
		}
	}
	elem := items.Type().Elem()
	return func() runtime.Object { return reflect.New(elem).Interface().(runtime.Object) }
}

// read collects the items and returns the version they were read at.
func (l *listing) read(at store.Version, continueKey string) (store.Version, error) {
	if !l.opts.Recursive {
		return l.readOne(at)
	}
	entries, version, err := l.db.List(store.Range{Prefix: l.key, Start: continueKey}, at)
	if err != nil {
		return 0, l.readError(err, at, continueKey)
	}
	if at == store.Latest {
		if err := l.checkMinimum(l.opts.ResourceVersion, version); err != nil {
			return 0, err
		}
	}
	for entry, err := range entries {
		if err != nil {
			return 0, fromStore(l.key, err)
		}
		if l.full() {
			l.more = true
			break
		}
		l.lastKey = entry.Key
		if err := l.add(entry); err != nil {
			return 0, l.errs.aggregate(l.resource)
		}
	}
	return version, nil
}

func (l *listing) readOne(at store.Version) (store.Version, error) {
	entry, version, err := l.db.Get(l.key, at)
	found := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, l.readError(err, at, "")
	}
	if at == store.Latest {
		if err := l.checkMinimum(l.opts.ResourceVersion, version); err != nil {
			return 0, err
		}
	}
	if found {
		return version, l.add(entry)
	}
	return version, nil
}

// readError is for a version that cannot be read at all.
func (l *listing) readError(err error, at store.Version, continueKey string) error {
	switch {
	case errors.Is(err, store.ErrFuture):
		return storage.NewTooLargeResourceVersionError(uint64(at), uint64(l.db.Version()), 0)
	case errors.Is(err, store.ErrExpired) && continueKey != "":
		return pageTooOld(continueKey, l.key)
	}
	return fromStore(l.key, err)
}

func (l *listing) full() bool {
	return l.opts.Predicate.Limit > 0 && int64(l.items.Len()) >= l.opts.Predicate.Limit
}

// add decodes one entry and appends it if it is selected.
func (l *listing) add(entry store.Entry) error {
	if l.ctx.Err() != nil {
		return l.errs.add(entry.Key, storage.NewTimeoutError(entry.Key, "request did not complete within requested timeout"))
	}
	obj, err := l.decode(l.ctx, entry.Key, entry.Value, entry.Version, l.newItem())
	if err != nil {
		return l.errs.add(entry.Key, err)
	}
	if matched, err := l.opts.Predicate.Matches(obj); err == nil && matched {
		l.items.Set(reflect.Append(l.items, reflect.ValueOf(obj).Elem()))
	}
	return nil
}

// finish fills in the list's own metadata.
func (l *listing) finish(list runtime.Object, version store.Version) error {
	if err := l.errs.aggregate(l.resource); err != nil {
		return err
	}
	if l.items.IsNil() {
		l.items.Set(reflect.MakeSlice(l.items.Type(), 0, 0))
	}
	count, err := l.count(version)
	if err != nil {
		return err
	}
	token, remaining, err := storage.PrepareContinueToken(l.lastKey, l.key, int64(version), count, l.more, l.opts)
	if err != nil {
		return err
	}
	if err := l.versioner.UpdateList(list, uint64(version), token, remaining); err != nil {
		return err
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch) {
		l.opts.Predicate.SetShardInfoOnList(list)
	}
	return nil
}

// count says how many objects this page and all after it have, where clients
// are told how many remain: on pages without a selector.
func (l *listing) count(version store.Version) (int64, error) {
	if !l.more || !l.opts.Predicate.Empty() {
		return 0, nil
	}
	rest, err := l.db.Count(store.Range{Prefix: l.key, Start: l.lastKey + "\x00"}, version)
	if err != nil {
		return 0, l.readError(err, version, l.lastKey)
	}
	return int64(l.items.Len()) + rest, nil
}
