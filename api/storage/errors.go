package storage

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"

	"shoal/store"
)

const (
	listExpired  = "The resourceVersion for the provided list is too old."
	watchExpired = "The resourceVersion for the provided watch is too old."
	pageExpired  = "The provided continue parameter is too old to display a consistent list result: " +
		"the version it was made at is no longer kept. List again from the start, or go on with the " +
		"token in this response, which reads the rest as it is now, so that changes made since the " +
		"first page may show in part."
)

// fromStore gives the store's errors the form that API clients get to see.
func fromStore(key string, err error) error {
	var (
		tooLarge *store.TooLargeError
		noSpace  *store.NoSpaceError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return apierrors.NewRequestEntityTooLargeError(tooLarge.Error())
	case errors.As(err, &noSpace):
		return insufficientStorage(noSpace)
	case errors.Is(err, store.ErrNotFound):
		return storage.NewKeyNotFoundError(key, 0)
	case errors.Is(err, store.ErrExpired):
		return apierrors.NewResourceExpired(listExpired)
	case errors.Is(err, store.ErrClosed):
		return apierrors.NewServiceUnavailable("the store is closing")
	}
	return err
}

// insufficientStorage is 507, which clients do not retry blindly.
func insufficientStorage(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInsufficientStorage,
		Reason:  metav1.StatusReasonUnknown,
		Message: err.Error(),
	}}
}

func badResourceVersion(err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
}

// pageTooOld answers a page of a version no longer kept, with a token that
// goes on at the latest one. The version -1 in it says so to storage.
func pageTooOld(continueKey, prefix string) error {
	token, err := storage.EncodeContinue(continueKey, prefix, -1)
	if err != nil {
		return apierrors.NewResourceExpired(listExpired)
	}
	expired := apierrors.NewResourceExpired(pageExpired)
	expired.ErrStatus.Continue = token
	return expired
}

// watchError is fromStore for watches.
func watchError(key string, err error) error {
	if errors.Is(err, store.ErrExpired) || errors.Is(err, store.ErrFuture) {
		return apierrors.NewResourceExpired(watchExpired)
	}
	return fromStore(key, err)
}
