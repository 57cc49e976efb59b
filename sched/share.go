package sched

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"

	"shoal/sched/slices"
)

// whole is the share of who schedules alone.
type whole struct{}

func (whole) Led() slices.Set                  { return slices.All() }
func (whole) Stamp(int) (slices.Stamp, bool)   { return slices.Stamp{}, true }
func (whole) Watch() (<-chan struct{}, func()) { return nil, func() {} }

// followShare keeps the queue to the pods of the slices led.
func (s *Scheduler) followShare(ctx context.Context) error {
	changed, stop := s.share.Watch()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			s.setShare(s.share.Led())
		}
	}
}

// setShare lets go of pods that are another's now and comes for those that are
// this peer's.
func (s *Scheduler) setShare(led slices.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gained := led.Minus(s.led)
	s.led = led
	for uid := range s.queue.items {
		if !led.Has(slices.Of(string(uid))) {
			s.queue.drop(uid)
		}
	}
	if gained.Len() == 0 {
		return
	}
	for _, object := range s.informers.Core().V1().Pods().Informer().GetStore().List() {
		if pod, ok := object.(*v1.Pod); ok && pod.Spec.NodeName == "" && gained.Has(slices.Of(string(pod.UID))) {
			s.setPod(nil, pod)
		}
	}
	s.wake()
}

var errNotLed = errors.New("the pod's slice is led by another peer now")

// stamp is what a binding of the pod says of who made it.
func (s *Scheduler) stamp(pod *v1.Pod) (map[string]string, error) {
	stamp, leads := s.share.Stamp(slices.Of(string(pod.UID)))
	switch {
	case !leads:
		return nil, errNotLed
	case stamp == slices.Stamp{}:
		return nil, nil
	}
	return map[string]string{slices.StampKey: stamp.String()}, nil
}
