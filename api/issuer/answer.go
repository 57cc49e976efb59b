package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"shoal/store"
	"shoal/store/vector"
)

// Names of the methods between peers.
const (
	VectorMethod = "api.vector"
	DigestMethod = "api.digest"
)

// apiKeys is what objects of the API are stored under; nothing else has
// versions that clients know.
const apiKeys = "/registry/"

// Store is what answering needs; *store.DB has it.
type Store interface {
	Version() store.Version
	Vector() vector.Vector
	Get(key string, at store.Version) (store.Entry, store.Version, error)
}

// Handler is the form in which a gossip node takes handlers.
type Handler func(ctx context.Context, from string, payload []byte) ([]byte, error)

// Vector answers what this peer holds, if it has come to the version asked.
func Vector(db Store) Handler {
	return func(_ context.Context, _ string, payload []byte) ([]byte, error) {
		asked, err := decodeVectorRequest(payload)
		if err != nil {
			return nil, err
		}
		// The version first: the vector may then cover more, never less.
		now := db.Version()
		if asked > now {
			return nil, fmt.Errorf("answer what was held at version %s: the newest here is %s", asked, now)
		}
		return appendHolding(nil, holding{version: now, vector: db.Vector()}), nil
	}
}

// Digest answers which record this peer wrote under a key at exactly a version.
func Digest(db Store) Handler {
	return func(_ context.Context, _ string, payload []byte) ([]byte, error) {
		version, key, err := decodeDigestRequest(payload)
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(key, apiKeys) {
			return nil, fmt.Errorf("answer for %s: it is no object of the API", key)
		}
		entry, err := written(db, key, version)
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrExpired), errors.Is(err, store.ErrFuture):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return appendDigest(nil, store.DigestOf(key, &entry.Record)), nil
	}
}

// written finds the record written under key at exactly version. Most objects
// do not change for longer than history is kept: the latest is looked at first.
func written(db Store, key string, version store.Version) (store.Entry, error) {
	entry, _, err := db.Get(key, store.Latest)
	if err == nil && entry.Version == version {
		return entry, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Entry{}, err
	}
	if entry, _, err = db.Get(key, version); err == nil && entry.Version != version {
		err = store.ErrNotFound
	}
	return entry, err
}
