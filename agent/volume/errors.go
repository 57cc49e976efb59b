package volume

import (
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// ErrUnsupported is wrapped by errors about fields shoal does not have.
var ErrUnsupported = errors.New("not supported")

// ErrNotBound is wrapped by the error about a claim that is bound to no volume
// yet, in the kubelet's words.
var ErrNotBound = errors.New("PVC is not bound")

// Passing reports whether every cause of err may be gone in a moment: another
// peer wrote something, and this host's API has it after the pod that needs it.
func Passing(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(e error) bool { return !Passing(e) })
	}
	failed := (*MountError)(nil)
	return errors.As(err, &failed) && (errors.Is(err, ErrNotBound) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err))
}

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
