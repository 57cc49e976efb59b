package store

import "errors"

// ErrGone says that a dot asked for is held but not logged any more: the asker
// must reconcile by sets.
var ErrGone = errors.New("deltas are no longer logged")

// KeyDigest is one key and 64 bits over its state: equal digests, equal states.
type KeyDigest struct {
	Key    string
	Digest uint64
}
