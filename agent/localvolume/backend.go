package localvolume

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Backend makes storage of one kind on this host. Each method may be repeated
// with the same effect, also after a crash in the middle of it.
type Backend interface {
	// Provision makes a volume of at least bytes and says what pods use. It is
	// on the disk when it returns. A NoRoomError has another host chosen.
	Provision(ctx context.Context, name string, bytes int64) (v1.PersistentVolumeSource, error)
	// Expand lets a volume grow from one size to another, in bytes.
	Expand(ctx context.Context, name string, from, to int64) error
	// Delete takes a volume away for good. One that is not there is no error.
	Delete(ctx context.Context, name string) error
}

// NoRoomError is a volume that does not fit on this host.
type NoRoomError struct {
	Dir         string
	Asked, Room int64 // bytes
}

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("the claim asks for %s and %s has room for %s; free some space, or ask for less", size(e.Asked), e.Dir, size(max(e.Room, 0)))
}
