package runner

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func lasting(seconds int64) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = &seconds }
}

func (b *bed) overdue(p *v1.Pod) {
	b.t.Helper()
	b.phase(p, v1.PodFailed)
	s := b.last(p.UID)
	if s.Reason != reasonDeadline || s.Message != messageDeadline {
		b.t.Errorf("status says %q, %q", s.Reason, s.Message)
	}
	if len(s.ContainerStatuses) != 1 || s.ContainerStatuses[0].State.Terminated == nil {
		b.t.Errorf("its container: %+v", s.ContainerStatuses)
	}
	b.event(p, reasonDeadline)
}

// TestDeadline: a pod's time ends, whether it runs or not.
func TestDeadline(t *testing.T) {
	b := newBed(t)
	t.Run("while it runs", func(t *testing.T) {
		b := b.with(t)
		p := pod("short", sleeper, lasting(3600))
		b.runner.Set(p)
		b.phase(p, v1.PodRunning)
		lasting(1)(p) // as an update of the API may: it counts from the pod's start
		b.runner.Set(p)
		b.overdue(p)
		b.remove(p)
	})
	t.Run("before it can start", func(t *testing.T) {
		b := b.with(t)
		p := pod("never", sleeper, lasting(1), func(p *v1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "absent", v1.PullNever
		})
		b.runner.Set(p)
		b.phase(p, v1.PodFailed)
		if r := b.last(p.UID).Reason; r != reasonDeadline {
			t.Errorf("reason %q", r)
		}
		b.remove(p)
	})
}

// TestDeadlineOverRestart: the time a pod had under an earlier runner counts.
func TestDeadlineOverRestart(t *testing.T) {
	b := newBed(t)
	p := pod("carried", sleeper, lasting(3600))
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.stop()
	p.Status = b.last(p.UID)
	began := metav1.NewTime(time.Now().Add(-2 * time.Hour))
	p.Status.StartTime = &began
	b.start()
	b.runner.Set(p)
	b.overdue(p)
	b.remove(p)
}
