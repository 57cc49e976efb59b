package volume

import (
	"errors"
	"fmt"
)

// ErrUnsupported is wrapped by errors about fields shoal does not have.
var ErrUnsupported = errors.New("not supported")

// MountError is a volume that could not be made, in the kubelet's words. The
// runner reports it as FailedMount.
type MountError struct {
	Volume string // its name in the pod
	Spec   string // the name users know: the persistent volume's, or Volume
	Err    error
	claim  bool // it was not found out what volume it is
}

func (e *MountError) Error() string {
	if e.claim {
		return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %v", e.Volume, e.Volume, e.Err)
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Spec, e.Err)
}

func (e *MountError) Unwrap() error { return e.Err }
