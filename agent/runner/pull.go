package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/image"
)

// pullTimeout bounds one pull; a layer that takes longer is not coming.
const pullTimeout = 30 * time.Minute

// ensureImage makes sure the slot's image is here. Without it, a pull runs
// or waits, and the second result is false.
func (w *worker) ensureImage(ctx context.Context, pod *v1.Pod, s *slot) (time.Time, bool) {
	if s.pull.running {
		return time.Time{}, false
	}
	always := s.spec.ImagePullPolicy == v1.PullAlways && !s.pull.always
	if s.image != nil && !always {
		w.present(pod, s)
		return time.Time{}, true
	}
	if !always {
		img, err := w.r.Images.Get(ctx, s.spec.Image)
		if err == nil {
			s.image = img
			w.present(pod, s)
			return time.Time{}, true
		}
		if !errors.Is(err, image.ErrNotPresent) {
			return w.pullFailed(pod, s, err), false
		}
		if s.spec.ImagePullPolicy == v1.PullNever {
			w.neverPull(pod, s)
			return time.Time{}, false
		}
	}
	if now().Before(s.pull.notBefore) {
		w.imageBackOff(pod, s)
		return s.pull.notBefore, false
	}
	w.startPull(ctx, pod, s)
	return time.Time{}, false
}

func (w *worker) present(pod *v1.Pod, s *slot) {
	if s.current == nil && !s.pull.always {
		w.r.Sink.Event(pod, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", s.spec.Image))
	}
}

func (w *worker) neverPull(pod *v1.Pod, s *slot) {
	message := fmt.Sprintf("Container image %q is not present with pull policy of Never", s.spec.Image)
	if s.waiting.Reason != reasonNeverPull {
		w.r.Sink.Event(pod, v1.EventTypeWarning, reasonNeverPull, message)
	}
	s.waiting = v1.ContainerStateWaiting{Reason: reasonNeverPull, Message: message}
}

func (w *worker) startPull(ctx context.Context, pod *v1.Pod, s *slot) {
	s.pull.running = true
	s.waiting = v1.ContainerStateWaiting{}
	w.r.Sink.Event(pod, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", s.spec.Image))
	began, ref := now(), s.spec.Image
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, pullTimeout)
		defer cancel()
		creds, err := w.credentials(ctx, pod, ref)
		var img *image.Image
		if err == nil {
			img, err = w.r.Images.Pull(ctx, ref, creds, nil)
		}
		w.tell(func(w *worker) {
			s.pull.running = false
			if s.spec.Image != ref {
				return // the specification names another image by now
			}
			if err != nil {
				w.pullFailed(pod, s, err)
				return
			}
			s.image = img
			s.pull = pullState{always: true}
			w.r.Sink.Event(pod, v1.EventTypeNormal, "Pulled",
				fmt.Sprintf("Successfully pulled image %q in %s", ref, now().Sub(began).Round(time.Millisecond)))
		})
	})
}

func (w *worker) pullFailed(pod *v1.Pod, s *slot, err error) time.Time {
	delay := min(backoffFirst<<min(s.pull.failures, 10), backoffMax)
	s.pull.failures++
	s.pull.notBefore = now().Add(delay)
	s.waiting = v1.ContainerStateWaiting{Reason: reasonErrPull, Message: err.Error()}
	w.r.Sink.Event(pod, v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", s.spec.Image, err))
	w.publish(pod)
	return s.pull.notBefore
}

func (w *worker) imageBackOff(pod *v1.Pod, s *slot) {
	message := fmt.Sprintf("Back-off pulling image %q", s.spec.Image)
	if s.waiting.Reason == reasonErrPull {
		w.r.Sink.Event(pod, v1.EventTypeNormal, "BackOff", message)
		message += ": " + s.waiting.Message
	} else if s.waiting.Reason == reasonPullBackOff {
		return
	}
	s.waiting = v1.ContainerStateWaiting{Reason: reasonPullBackOff, Message: message}
}

// credentials are those of the pod's pull secrets that fit the registry.
func (w *worker) credentials(ctx context.Context, pod *v1.Pod, ref string) ([]image.Credentials, error) {
	registry, err := image.Registry(ref)
	if err != nil {
		return nil, err
	}
	var out []image.Credentials
	for _, s := range pod.Spec.ImagePullSecrets {
		secret, err := w.r.Source.Secret(ctx, pod.Namespace, s.Name)
		if err != nil {
			// A missing secret is not fatal: the image may be public.
			w.log.Warn("image pull secret cannot be read", "secret", s.Name, "error", err)
			continue
		}
		found, err := image.FromSecret(secret, registry)
		if err != nil {
			w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", err.Error())
			continue
		}
		out = append(out, found...)
	}
	return out, nil
}
