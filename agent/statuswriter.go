package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/kubernetes"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
)

// statusWriters bounds status writes in flight.
const statusWriters = 8

// statusRetryMax bounds the wait after a failed write.
const statusRetryMax = 10 * time.Second

// statusWriter writes pods' status to the API: the newest only, at once, one
// write per pod at a time.
type statusWriter struct {
	kube kubernetes.Interface
	log  *slog.Logger

	mu      sync.Mutex
	entries map[types.UID]*statusEntry // guarded by mu
	queue   []types.UID                // pods with something to write; guarded by mu
	wake    chan struct{}
}

type statusEntry struct {
	pod      *v1.Pod // the newest object seen, for its resourceVersion
	status   *v1.PodStatus
	gone     bool
	busy     bool // being written, or waiting to be retried
	queued   bool
	failures int
}

func newStatusWriter(kube kubernetes.Interface, log *slog.Logger) *statusWriter {
	return &statusWriter{kube: kube, log: log, entries: map[types.UID]*statusEntry{}, wake: make(chan struct{}, statusWriters)}
}

// observe keeps the newest object, so that a write seldom conflicts.
func (s *statusWriter) observe(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e := s.entries[pod.UID]; {
	case e == nil:
		s.entries[pod.UID] = &statusEntry{pod: pod}
	case !olderVersion(pod, e.pod):
		// The watch may still be behind our own last write.
		e.pod = pod
	}
}

func (s *statusWriter) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, uid)
}

func (s *statusWriter) put(pod *v1.Pod, status v1.PodStatus) {
	s.change(pod, func(e *statusEntry) { e.status = &status })
}

func (s *statusWriter) gone(pod *v1.Pod) {
	s.change(pod, func(e *statusEntry) { e.gone = true })
}

// idlePoll is how often flush looks.
const idlePoll = 10 * time.Millisecond

// flush waits until all that was put is written, or ctx ends. It is for the
// machine's last moments.
func (s *statusWriter) flush(ctx context.Context) {
	tick := time.NewTicker(idlePoll)
	defer tick.Stop()
	for !s.idle() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *statusWriter) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if e.queued || e.busy || e.status != nil {
			return false
		}
	}
	return true
}

func (s *statusWriter) change(pod *v1.Pod, apply func(*statusEntry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[pod.UID]
	if e == nil {
		// Its object is deleted already: nobody to tell.
		return
	}
	apply(e)
	s.enqueue(pod.UID, e)
}

// enqueue is called with mu held.
func (s *statusWriter) enqueue(uid types.UID, e *statusEntry) {
	if e.queued || e.busy {
		return
	}
	e.queued = true
	s.queue = append(s.queue, uid)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *statusWriter) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range statusWriters {
		wg.Go(func() { s.work(ctx) })
	}
	wg.Wait()
	return nil
}

func (s *statusWriter) work(ctx context.Context) {
	for {
		uid, e := s.next()
		if e == nil {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
				continue
			}
		}
		s.write(ctx, uid, e)
	}
}

func (s *statusWriter) next() (types.UID, *statusEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 {
		uid := s.queue[0]
		s.queue = s.queue[1:]
		if e := s.entries[uid]; e != nil {
			e.queued, e.busy = false, true
			return uid, e
		}
	}
	return "", nil
}

// write sends what the entry has, the status first, the deletion after.
func (s *statusWriter) write(ctx context.Context, uid types.UID, e *statusEntry) {
	s.mu.Lock()
	pod, status, gone := e.pod, e.status, e.gone
	e.status = nil
	s.mu.Unlock()
	var err error
	if status != nil {
		err = s.update(ctx, pod, status)
		if gone && apierrors.IsInvalid(err) {
			// Trying again would not help, and the object has to go.
			s.log.Error("last pod status was refused", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			err = nil
		}
	}
	if err == nil && gone {
		err = s.remove(ctx, pod)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		e.failures, e.busy = 0, false
		if gone {
			delete(s.entries, uid)
		} else if e.status != nil || e.gone {
			s.enqueue(uid, e)
		}
		return
	}
	if e.status == nil {
		e.status = status
	}
	s.retry(ctx, uid, e, err)
}

// retry is called with mu held.
func (s *statusWriter) retry(ctx context.Context, uid types.UID, e *statusEntry, err error) {
	if ctx.Err() != nil {
		return
	}
	delay := min(50*time.Millisecond<<min(e.failures, 10), statusRetryMax)
	e.failures++
	s.log.Warn("pod status could not be written, will retry", "pod", e.pod.Namespace+"/"+e.pod.Name, "error", err, "retryIn", delay)
	time.AfterFunc(delay, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.busy = false
		if s.entries[uid] == e {
			s.enqueue(uid, e)
		}
	})
}

// update puts the status under the object's version; when someone else wrote
// in between, it reads the object and tries again.
func (s *statusWriter) update(ctx context.Context, pod *v1.Pod, status *v1.PodStatus) error {
	pods := s.kube.CoreV1().Pods(pod.Namespace)
	for attempt := 0; ; attempt++ {
		next := *pod
		next.Status = *status
		next.Status.Conditions = keepForeign(status.Conditions, pod.Status.Conditions)
		written, err := pods.UpdateStatus(ctx, &next, metav1.UpdateOptions{})
		switch {
		case err == nil:
			s.newer(written)
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err) || attempt == 5:
			return err
		}
		live, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || (err == nil && live.UID != pod.UID) {
			return nil
		}
		if err != nil {
			return err
		}
		pod = live
	}
}

// newer keeps what a write returned, for the version of the next one.
func (s *statusWriter) newer(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[pod.UID]; e != nil {
		e.pod = pod
	}
}

// olderVersion compares the versions one peer gave, which grow.
func olderVersion(a, b *v1.Pod) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0
}

// keepForeign adds the live object's conditions that are not ours.
func keepForeign(mine, live []v1.PodCondition) []v1.PodCondition {
	have := map[v1.PodConditionType]bool{}
	out := append([]v1.PodCondition{}, mine...)
	for _, c := range mine {
		have[c.Type] = true
	}
	for _, c := range live {
		if !have[c.Type] && !kubetypes.PodConditionByKubelet(c.Type) {
			out = append(out, c)
		}
	}
	return out
}

// remove deletes the object for good: nothing of the pod is left.
func (s *statusWriter) remove(ctx context.Context, pod *v1.Pod) error {
	zero := int64(0)
	err := s.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero,
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsConflict(err) {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	// NodeRestriction looks the pod up in an informer, which may not know it yet.
	live, getErr := s.kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(getErr) || (getErr == nil && live.UID != pod.UID) {
		return nil
	}
	return errors.Join(err, getErr)
}
