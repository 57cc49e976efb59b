package runner

import (
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/volume"
)

const (
	// passingFor is how long what may be there in a moment is waited for without
	// a word: gossip brings a pod to its host before what was written beside it
	// by some tenths of a second, and some seconds where a host is short of CPU.
	passingFor   = 4 * time.Second
	passingRetry = 200 * time.Millisecond
)

// passes reports whether err is to be tried again shortly and not told yet.
func (w *worker) passes(err error) bool {
	if !volume.Passing(err) {
		return false
	}
	if w.box.unsaid.IsZero() {
		w.box.unsaid = now()
	}
	return now().Sub(w.box.unsaid) < passingFor
}

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
