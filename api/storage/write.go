package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"

	"shoal/store"
)

// Create writes obj under a key that has none, and reads it back into out.
func (s *Storage) Create(ctx context.Context, key string, obj, out runtime.Object, ttlSeconds uint64) error {
	key, err := s.key(key, false)
	if err != nil {
		return err
	}
	if version, err := s.versioner.ObjectResourceVersion(obj); err == nil && version != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	data, err := s.encode(obj)
	if err != nil {
		return err
	}
	entry, err := s.put(ctx, key, obj, data, store.Absent, ttlSeconds)
	if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
		return storage.NewKeyExistsError(key, 0)
	}
	if err != nil {
		return fromStore(key, err)
	}
	if out == nil {
		return nil
	}
	return s.fill(data, entry.Version, out)
}

// encode gives obj's stored form, without a resourceVersion.
func (s *Storage) encode(obj runtime.Object) ([]byte, error) {
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, fmt.Errorf("prepare object for storage: %w", err)
	}
	return runtime.Encode(s.codec, obj)
}

// put commits the encoded obj.
func (s *Storage) put(ctx context.Context, key string, obj runtime.Object, data []byte, expect store.Version, ttlSeconds uint64) (store.Entry, error) {
	stored, err := s.transformer.TransformToStorage(ctx, data, value.DefaultContext(key))
	if err != nil {
		return store.Entry{}, storage.NewInternalError(err)
	}
	return s.db.Update(ctx, store.Update{
		Key:    key,
		Expect: expect,
		Value:  stored,
		UID:    uid(obj),
		TTL:    time.Duration(ttlSeconds) * time.Second,
	})
}

// uid is empty for the few things stored that have no metadata.
func uid(obj runtime.Object) string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return ""
	}
	return string(m.GetUID())
}

// state is an object as an update or deletion starts from it.
type state struct {
	// obj is nil when it cannot be decoded, where that is allowed.
	obj     runtime.Object
	version store.Version
	// data is the decoded object's stored form before the transformer.
	data []byte
	// stale: the transformer wants it rewritten, even unchanged.
	stale bool
	// suggested: it came from the caller and may be out of date.
	suggested bool
}

func (st *state) meta() storage.ResponseMeta {
	return storage.ResponseMeta{ResourceVersion: uint64(st.version)}
}

// writing is what one update or deletion needs throughout.
type writing struct {
	*Storage
	ctx context.Context
	key string
	// out is what the caller wants filled; its type is the object's.
	out runtime.Object
	typ reflect.Type
	// zeroIfMissing: a missing object is an empty one.
	zeroIfMissing bool
	// corruptOnly: only what cannot be decoded may be deleted.
	corruptOnly bool
}

func (s *Storage) write(ctx context.Context, key string, out runtime.Object) (*writing, error) {
	key, err := s.key(key, false)
	if err != nil {
		return nil, err
	}
	v, err := conversion.EnforcePtr(out)
	if err != nil {
		return nil, fmt.Errorf("convert output object to pointer: %w", err)
	}
	return &writing{Storage: s, ctx: ctx, key: key, out: out, typ: v.Type()}, nil
}

func (w *writing) newObject() runtime.Object {
	if u, ok := w.out.(runtime.Unstructured); ok {
		return u.NewEmptyInstance()
	}
	return reflect.New(w.typ).Interface().(runtime.Object)
}

// begin starts from the caller's suggestion when there is one.
func (w *writing) begin(suggestion runtime.Object) (*state, error) {
	if suggestion == nil || w.corruptOnly {
		return w.read()
	}
	version, err := w.versioner.ObjectResourceVersion(suggestion)
	if err != nil {
		return nil, fmt.Errorf("read resource version of the cached object: %w", err)
	}
	st := &state{obj: suggestion, version: store.Version(version), suggested: true}
	// Encoding wants the version out of the object, its user wants it back.
	if st.data, err = w.encode(suggestion); err != nil {
		return nil, err
	}
	if err := w.versioner.UpdateObject(suggestion, version); err != nil {
		return nil, fmt.Errorf("restore resource version of the cached object: %w", err)
	}
	return st, nil
}

// read gives the current state.
func (w *writing) read() (*state, error) {
	entry, _, err := w.db.Get(w.key, store.Latest)
	if errors.Is(err, store.ErrNotFound) {
		return w.state(nil)
	}
	if err != nil {
		return nil, fromStore(w.key, err)
	}
	return w.state(&entry)
}

// reread replaces a suggestion that led to cause. If it turns out to have been
// current, cause stands.
func (w *writing) reread(suggestion *state, cause error) (*state, error) {
	if !suggestion.suggested {
		return nil, cause
	}
	st, err := w.read()
	if err != nil {
		return nil, err
	}
	if st.version == suggestion.version {
		return nil, cause
	}
	return st, nil
}

// state decodes what the store holds; nil for nothing.
func (w *writing) state(entry *store.Entry) (*state, error) {
	st := &state{obj: w.newObject()}
	if entry == nil {
		if !w.zeroIfMissing {
			return nil, storage.NewKeyNotFoundError(w.key, 0)
		}
		return st, runtime.SetZeroValue(st.obj)
	}
	st.version = entry.Version
	err := w.decodeState(st, entry)
	switch {
	case err != nil && w.corruptOnly:
		st.obj = nil
		return st, nil
	case err != nil:
		return nil, err
	case w.corruptOnly:
		return nil, storage.NewInvalidObjError(w.key, "unsafe deletion is not allowed because the object is decodable from storage")
	}
	return st, nil
}

func (w *writing) decodeState(st *state, entry *store.Entry) error {
	data, stale, err := w.transformer.TransformFromStorage(w.ctx, entry.Value, value.DefaultContext(w.key))
	if err != nil {
		return storage.NewInternalError(err)
	}
	st.data, st.stale = data, stale
	return w.fill(data, entry.Version, st.obj)
}

// GuaranteedUpdate calls change on the current object and commits the result,
// again from the start whenever somebody else was faster.
func (s *Storage) GuaranteedUpdate(
	ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, change storage.UpdateFunc, cached runtime.Object,
) error {
	w, err := s.write(ctx, key, out)
	if err != nil {
		return err
	}
	w.zeroIfMissing = ignoreNotFound
	preconditions = s.localPreconditions(ctx, w.key, preconditions)
	st, err := w.begin(cached)
	for err == nil && st != nil {
		st, err = w.tryUpdate(st, preconditions, change)
	}
	return err
}

// tryUpdate makes one attempt from st. It returns the state to try again from,
// or nil when done.
func (w *writing) tryUpdate(st *state, preconditions *storage.Preconditions, change storage.UpdateFunc) (*state, error) {
	if err := preconditions.Check(w.key, st.obj); err != nil {
		return w.reread(st, err)
	}
	changed, ttl, err := change(st.obj, st.meta())
	if err != nil {
		return w.reread(st, err)
	}
	data, err := w.encode(changed)
	if err != nil {
		return nil, err
	}
	if !st.stale && bytes.Equal(data, st.data) {
		again, unchanged, err := w.confirmUnchanged(st, data)
		if err != nil || unchanged {
			return nil, err
		}
		if again != nil {
			return again, nil
		}
	}
	var ttlSeconds uint64
	if ttl != nil {
		ttlSeconds = *ttl
	}
	entry, err := w.put(w.ctx, w.key, changed, data, st.version, ttlSeconds)
	if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
		return w.state(conflict.Current)
	}
	if err != nil {
		return nil, fromStore(w.key, err)
	}
	return nil, w.fill(data, entry.Version, w.out)
}

// confirmUnchanged handles an update that changes nothing: it is not written,
// but only if what it is compared with is really what is stored. A state
// returned says to try again from it; neither that nor unchanged, to write.
func (w *writing) confirmUnchanged(st *state, data []byte) (again *state, unchanged bool, err error) {
	current := st
	if st.suggested {
		if current, err = w.read(); err != nil {
			return nil, false, err
		}
		if !bytes.Equal(data, current.data) {
			return current, false, nil
		}
		if current.stale {
			st.version = current.version
			return nil, false, nil
		}
	}
	err = w.fill(current.data, current.version, w.out)
	return nil, err == nil, err
}

// Delete removes the object and reads what it was into out, with the version
// of the deletion.
func (s *Storage) Delete(
	ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions,
) error {
	w, err := s.write(ctx, key, out)
	if err != nil {
		return err
	}
	w.corruptOnly = opts.ExpectTransformOrDecodeError && unsafeDeletionEnabled()
	preconditions = s.localPreconditions(ctx, w.key, preconditions)
	st, err := w.begin(cached)
	for err == nil && st != nil {
		st, err = w.tryDelete(st, preconditions, validate)
	}
	return err
}

// tryDelete makes one attempt from st, like tryUpdate.
func (w *writing) tryDelete(st *state, preconditions *storage.Preconditions, validate storage.ValidateObjectFunc) (*state, error) {
	if preconditions != nil {
		if err := preconditions.Check(w.key, st.obj); err != nil {
			return w.reread(st, err)
		}
	}
	if err := validate(w.ctx, st.obj); err != nil {
		return w.reread(st, err)
	}
	entry, err := w.db.Update(w.ctx, store.Update{Key: w.key, Expect: st.version, Delete: true})
	if conflict := (*store.ConflictError)(nil); errors.As(err, &conflict) {
		return w.state(conflict.Current)
	}
	if err != nil {
		return nil, fromStore(w.key, err)
	}
	if w.corruptOnly {
		return nil, nil
	}
	return nil, w.fill(st.data, entry.Version, w.out)
}
