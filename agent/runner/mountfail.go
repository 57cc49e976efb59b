package runner

import (
	"errors"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/volume"
)

// mountFailed tells of each volume among the causes of err, and reports
// whether there was one.
func (w *worker) mountFailed(pod *v1.Pod, err error) bool {
	var failed *volume.MountError
	if !errors.As(err, &failed) {
		return false
	}
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedMount", failed.Error())
		return true
	}
	for _, e := range all.Unwrap() {
		w.mountFailed(pod, e)
	}
	return true
}
