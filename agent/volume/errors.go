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

// StepError is what went wrong before SetUp: "MountVolume.STEP failed".
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

func (e *MountError) Error() string {
	if e.claim {
		return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %v", e.Volume, e.Volume, e.Err)
	}
	step := "SetUp"
	if before := (*StepError)(nil); errors.As(e.Err, &before) {
		step = before.Step
	}
	return fmt.Sprintf("MountVolume.%s failed for volume %q : %v", step, e.Spec, e.Err)
}

func (e *MountError) Unwrap() error { return e.Err }
