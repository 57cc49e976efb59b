package storage

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"shoal/store"
)

// Objects that cannot be read back (a lost encryption key, a kind whose schema
// went away) can be found and deleted where the administrator has enabled the
// AllowUnsafeMalformedObjectDeletion gate. Without it one of them fails the
// request that meets it.

// unsafeDeletionEnabled reports whether the gate is on.
func unsafeDeletionEnabled() bool {
	return utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
}

// corruptError marks an object as unreadable.
type corruptError struct {
	what string
	err  error
}

func (e *corruptError) Error() string { return e.what + ": " + e.err.Error() }
func (e *corruptError) Unwrap() error { return e.err }

// corruptTransformer marks the failures of the transformer it wraps.
type corruptTransformer struct{ value.Transformer }

func (t corruptTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	out, stale, err := t.Transformer.TransformFromStorage(ctx, data, dataCtx)
	if err != nil {
		err = &corruptError{what: "data from the storage is not transformable", err: err}
	}
	return out, stale, err
}

// asCorrupt is the form in which the registry learns that it may offer an
// unsafe deletion.
func asCorrupt(key string, err error) error {
	if corrupt := (*corruptError)(nil); errors.As(err, &corrupt) {
		return storage.NewCorruptObjError(key, corrupt)
	}
	return err
}

// maxCorruptItems named by one list's error.
const maxCorruptItems = 100

// itemErrors is what went wrong with single items of a list: the corrupt ones
// are collected, so that one error names them all, and anything else ends it.
type itemErrors struct {
	corrupt []metav1.StatusCause
	first   error
	// ended is why the list stopped early.
	ended error
}

var errTooManyCorrupt = errors.New("too many errors, the list is truncated")

// add returns an error when the list is to stop.
func (e *itemErrors) add(key string, err error) error {
	corrupt := (*corruptError)(nil)
	if !errors.As(err, &corrupt) || !unsafeDeletionEnabled() {
		e.ended = err
		return err
	}
	if e.first == nil {
		e.first = corrupt
	}
	e.corrupt = append(e.corrupt, metav1.StatusCause{
		Type:    metav1.CauseTypeUnexpectedServerResponse,
		Field:   key,
		Message: storage.NewCorruptObjError(key, corrupt).Error(),
	})
	if len(e.corrupt) >= maxCorruptItems {
		e.ended = errTooManyCorrupt
		return e.ended
	}
	return nil
}

// aggregate returns what the list answers, nil when all went well.
func (e *itemErrors) aggregate(resource schema.GroupResource) error {
	if len(e.corrupt) == 0 {
		return e.ended
	}
	causes := e.corrupt
	switch {
	case errors.Is(e.ended, errTooManyCorrupt):
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeTooMany, Message: e.ended.Error()})
	case e.ended != nil:
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Message: e.ended.Error()})
	}
	message := fmt.Sprintf("failed to read one or more %s from the storage: %v", resource, e.first)
	if more := len(e.corrupt) - 1; more > 0 {
		message = fmt.Sprintf("%s (and %d more)", message, more)
	}
	return readError(message, &metav1.StatusDetails{
		Group:  resource.Group,
		Kind:   resource.Resource,
		Name:   "list",
		Causes: causes,
	})
}

func readError(message string, details *metav1.StatusDetails) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInternalServerError,
		Reason:  metav1.StatusReasonStoreReadError,
		Message: message,
		Details: details,
	}}
}

// corruptDeletion is what a watch ends with when an unreadable object was
// deleted: there is nothing to show, and clients must list again.
func corruptDeletion(e *store.Event, err error) error {
	if corrupt := (*corruptError)(nil); e.Deleted && errors.As(err, &corrupt) {
		return readError(fmt.Sprintf("saw a DELETED event, but object data is corrupt - %v", corrupt), nil)
	}
	return err
}
