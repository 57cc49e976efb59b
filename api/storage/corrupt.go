package storage

import (
	"k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"shoal/store"
)

// unsafeDeletionEnabled: an administrator may delete what cannot be decoded.
func unsafeDeletionEnabled() bool {
	return utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
}

// itemErrors is what went wrong with single items of a list.
type itemErrors struct{ err error }

// add returns the error that ends the list at once, if this one does.
func (e *itemErrors) add(_ string, err error) error {
	e.err = err
	return err
}

func (e *itemErrors) aggregate() error { return e.err }

// corruptDeletion passes on why a change's former object cannot be shown.
func corruptDeletion(_ *store.Event, err error) error { return err }
