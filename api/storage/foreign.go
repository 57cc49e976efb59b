package storage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"shoal/store"
	"shoal/store/vector"
)

// Peers answers for versions that other peers of the cell issued. A version
// means something to its issuer alone, which its tag names.
type Peers interface {
	// Held returns a vector that covers all the peer tag had at version.
	Held(ctx context.Context, tag store.Tag, version store.Version) (vector.Vector, error)
	// Digest returns the digest of the record that the peer tag wrote under
	// key at exactly version.
	Digest(ctx context.Context, tag store.Tag, key string, version store.Version) (store.Digest, error)
}

// Cell is what a storage knows of the other peers. The zero Cell is a host
// alone: every version counts as its own.
type Cell struct {
	// Tag is this peer's own number.
	Tag   store.Tag
	Peers Peers
}

const (
	// foreignTimeout bounds what a request waits for other peers: longer than
	// records take to travel, shorter than anybody minds.
	foreignTimeout = 300 * time.Millisecond
	// foreignPoll is how often a request that waits for records looks whether
	// they have come. A look is a comparison of two short lists.
	foreignPoll = 4 * time.Millisecond
)

// foreign reports whether another peer issued v.
func (c Cell) foreign(v store.Version) bool {
	return c.Peers != nil && v != store.Latest && v.Tag() != c.Tag
}

// reach waits until this peer has all that the issuer of version had then. If
// that does not come about in time, the version is too large for this peer.
func (s *Storage) reach(ctx context.Context, version store.Version) error {
	ctx, cancel := context.WithTimeout(ctx, foreignTimeout)
	defer cancel()
	tooLarge := func() error {
		return storage.NewTooLargeResourceVersionError(uint64(version), uint64(s.db.Version()), retryAfterSeconds())
	}
	held, err := s.cell.Peers.Held(ctx, version.Tag(), version)
	if err != nil {
		return tooLarge()
	}
	ticker := time.NewTicker(foreignPoll)
	defer ticker.Stop()
	for !s.covers(held) {
		select {
		case <-ctx.Done():
			return tooLarge()
		case <-ticker.C:
		}
	}
	return nil
}

// covers reports whether reads see all that held has.
func (s *Storage) covers(held vector.Vector) bool {
	have, at := s.db.VectorAt()
	return s.db.Version() >= at && len(have.Missing(held)) == 0
}

// reachText is reach for a request's resourceVersion, if that is foreign.
func (s *Storage) reachText(ctx context.Context, minimum string) error {
	wanted, err := s.versioner.ParseResourceVersion(minimum)
	if err != nil {
		return badResourceVersion(err)
	}
	if !s.cell.foreign(store.Version(wanted)) {
		return nil
	}
	return s.reach(ctx, store.Version(wanted))
}

// local returns the version that this peer's record under key has, if it is
// the very record that version stands for with its issuer. Otherwise, and when
// the issuer cannot tell in time, it returns version itself, which is no local
// record's: preconditions then fail as they do for a version long gone.
func (s *Storage) local(ctx context.Context, key string, version store.Version) store.Version {
	if !s.cell.foreign(version) {
		return version
	}
	entry, _, err := s.db.Get(key, store.Latest)
	if err != nil || entry.Version == version {
		return version
	}
	ctx, cancel := context.WithTimeout(ctx, foreignTimeout)
	defer cancel()
	theirs, err := s.cell.Peers.Digest(ctx, version.Tag(), key, version)
	if err != nil || theirs != store.DigestOf(key, &entry.Record) {
		return version
	}
	return entry.Version
}

// localText is local for a precondition.
func (s *Storage) localText(ctx context.Context, key, version string) string {
	wanted, err := s.versioner.ParseResourceVersion(version)
	if err != nil || !s.cell.foreign(store.Version(wanted)) {
		return version
	}
	return s.local(ctx, key, store.Version(wanted)).String()
}

// localPreconditions returns p with a foreign version replaced by the local
// one, where they mean the same.
func (s *Storage) localPreconditions(ctx context.Context, key string, p *storage.Preconditions) *storage.Preconditions {
	if p == nil || p.ResourceVersion == nil {
		return p
	}
	version := s.localText(ctx, key, *p.ResourceVersion)
	return &storage.Preconditions{UID: p.UID, ResourceVersion: &version}
}

// LocalVersion is localPreconditions for what is compared above the storage:
// version as a client sent it for the object at the registry key.
func (s *Storage) LocalVersion(ctx context.Context, namespace, name, version string) string {
	key, err := s.objectKey(namespace, name)
	if err != nil {
		return version
	}
	return s.localText(ctx, key, version)
}

// objectKey is the store's key of an object, as the generic registry forms it.
func (s *Storage) objectKey(namespace, name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("form key of %s: no name", s.resource)
	}
	return s.key(s.registryKey(namespace, name), false)
}

func (s *Storage) registryKey(namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimSuffix(s.resourcePrefix, "/") + "/" + name
}

// Rewrite changes an object below the registry: no strategy, admission or
// validation sees it, watches do. It is for what the cell itself must change in
// fields that clients may not.
func (s *Storage) Rewrite(
	ctx context.Context, namespace, name string, out runtime.Object, preconditions *storage.Preconditions, change storage.UpdateFunc,
) error {
	return s.GuaranteedUpdate(ctx, s.registryKey(namespace, name), out, false, preconditions, change, nil)
}

// translating is the versioner shown to the registry. The registry compares
// the version in an object sent by a client with the stored object's; one that
// another peer issued is made ours first, where both mean the same record.
type translating struct {
	storage.APIObjectVersioner
	s *Storage
}

// ObjectResourceVersion returns obj's version in this peer's terms. It also
// puts that into obj, as what follows compares objects whole.
func (t translating) ObjectResourceVersion(obj runtime.Object) (uint64, error) {
	version, err := t.APIObjectVersioner.ObjectResourceVersion(obj)
	if err != nil || !t.s.cell.foreign(store.Version(version)) {
		return version, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return 0, err
	}
	key, err := t.s.objectKey(m.GetNamespace(), m.GetName())
	if err != nil {
		return version, nil
	}
	local := t.s.local(t.s.ctx, key, store.Version(version))
	return uint64(local), t.UpdateObject(obj, uint64(local))
}
