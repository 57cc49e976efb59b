package runner

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// What the kubelet says of a pod that has used up its time; controllers and
// people look for these words.
const (
	reasonDeadline  = "DeadlineExceeded"
	messageDeadline = "Pod was active on the node longer than the specified deadline"
)

// activeUntil is when the pod's time is up; zero is never. It counts from the
// start time in the API, so a restarted daemon comes to the same answer.
func (w *worker) activeUntil(pod *v1.Pod) time.Time {
	if pod.Spec.ActiveDeadlineSeconds == nil {
		return time.Time{}
	}
	return w.startTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
}

// expire reports whether the pod's time is up. Once it is, it stays so.
func (w *worker) expire(pod *v1.Pod) bool {
	if w.expired {
		return true
	}
	until := w.activeUntil(pod)
	if until.IsZero() || now().Before(until) {
		return false
	}
	w.expired = true
	w.r.Sink.Event(pod, v1.EventTypeNormal, reasonDeadline, messageDeadline)
	return true
}
