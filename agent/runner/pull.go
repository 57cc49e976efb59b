package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/image"
)

const (
	// pullTimeout bounds one pull; a layer that takes longer is not coming.
	pullTimeout = 30 * time.Minute
	// A pull that takes long tells how far it is after pullFirstWord and then
	// every pullNextWord: each word is an Event and a change of status.
	pullFirstWord = 10 * time.Second
	pullNextWord  = 30 * time.Second
)

// errNeverPull says that policy Never forbids what would be needed.
var errNeverPull = errors.New("image is not present with pull policy of Never")

// pullState is where the image of a slot stands.
type pullState struct {
	running   bool
	failures  int
	notBefore time.Time
	problem   string        // reason and message of the last failure
	pulled    bool          // the image was pulled for the start to come
	checked   digest.Digest // of an image that this pod may use; empty: none yet
}

// ensureImage makes sure that the slot's image is here and that the pod may use
// it. Else a pull runs or waits, and the second result is false.
func (w *worker) ensureImage(ctx context.Context, pod *v1.Pod, s *slot) (time.Time, bool) {
	if s.pull.running {
		return time.Time{}, false
	}
	always := s.spec.ImagePullPolicy == v1.PullAlways
	if s.pull.pulled && s.image != nil {
		s.pull.pulled = false // policy Always asks again for the next start
		return time.Time{}, true
	}
	if !always && s.image == nil {
		img, err := w.r.Images.Get(ctx, s.spec.Image)
		if err != nil && !errors.Is(err, image.ErrNotPresent) {
			return w.inspectFailed(pod, s, err), false
		}
		s.image = img
	}
	if !always && s.image != nil && (s.image.Open() || s.pull.checked == s.image.Digest) {
		w.present(pod, s)
		return time.Time{}, true
	}
	if s.spec.ImagePullPolicy == v1.PullNever && s.image == nil {
		w.neverPull(pod, s)
		return time.Time{}, false
	}
	if now().Before(s.pull.notBefore) {
		if s.spec.ImagePullPolicy != v1.PullNever {
			w.imageBackOff(pod, s)
		}
		return s.pull.notBefore, false
	}
	if _, err := image.Normalize(s.spec.Image); err != nil {
		return w.inspectFailed(pod, s, err), false
	}
	w.startPull(ctx, pod, s)
	return time.Time{}, false
}

func (w *worker) present(pod *v1.Pod, s *slot) {
	w.event(pod, s, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", s.spec.Image))
}

func (w *worker) neverPull(pod *v1.Pod, s *slot) {
	message := fmt.Sprintf("Container image %q is not present with pull policy of Never", s.spec.Image)
	if s.waiting.Reason != reasonNeverPull {
		w.event(pod, s, v1.EventTypeWarning, reasonNeverPull, message)
		w.event(pod, s, v1.EventTypeWarning, "Failed", "Error: "+reasonNeverPull)
	}
	s.waiting = v1.ContainerStateWaiting{Reason: reasonNeverPull, Message: message}
}

// inspectFailed tells of a name that is none, or of an image that cannot be
// read.
func (w *worker) inspectFailed(pod *v1.Pod, s *slot, err error) time.Time {
	reason, message := reasonInspect, fmt.Sprintf("Failed to inspect image %q: %v", s.spec.Image, err)
	if _, bad := image.Normalize(s.spec.Image); bad != nil {
		reason, message = reasonImageName, fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", s.spec.Image, s.spec.Image, errors.Unwrap(bad))
	}
	if s.waiting.Message != message {
		w.event(pod, s, v1.EventTypeWarning, "InspectFailed", message)
		w.event(pod, s, v1.EventTypeWarning, "Failed", "Error: "+reason)
	}
	s.waiting = v1.ContainerStateWaiting{Reason: reason, Message: message}
	w.publish(pod)
	return now().Add(backoffFirst)
}

// startPull gets the image, or finds out that the pod may use the one that is
// here.
func (w *worker) startPull(ctx context.Context, pod *v1.Pod, s *slot) {
	s.pull.running = true
	have := s.image
	if s.spec.ImagePullPolicy == v1.PullAlways {
		have = nil
	}
	ref, policy, field := s.spec.Image, s.spec.ImagePullPolicy, s.field()
	w.jobs.Go(func() {
		got, err := w.pullImage(ctx, pod, field, ref, policy, have, w.pullWords(pod, field, s, ref))
		w.tell(func(w *worker) {
			s.pull.running = false
			if s.spec.Image == ref { // else the specification names another by now
				w.pullEnded(pod, s, got, err)
			}
		})
	})
}

func (w *worker) pullEnded(pod *v1.Pod, s *slot, got pulled, err error) {
	switch {
	case errors.Is(err, errNeverPull): // the secrets may change
		s.pull.notBefore = now().Add(backoffFirst)
		w.neverPull(pod, s)
		return
	case err != nil:
		w.pullFailed(pod, s, err)
		return
	}
	s.image = got.image
	s.pull = pullState{pulled: true, checked: got.image.Digest}
	switch s.waiting.Reason {
	case "", reasonErrPull, reasonPullBackOff, reasonNeverPull, reasonInspect, image.ErrRegistryUnavailable.Error():
		s.waiting = v1.ContainerStateWaiting{}
	}
	if got.was {
		w.present(pod, s)
	}
}

// pulled is an image that a pod may use.
type pulled struct {
	image *image.Image
	was   bool // it was here, and the pod's secrets are good for it
}

// pullImage gets an image for a pod as policy says, with the pod's pull secrets.
// have is the image that is here, nil for none or one that does not count. It
// tells of the pull by Events of field, which names the container. It may be called by any goroutine.
func (w *worker) pullImage(ctx context.Context, pod *v1.Pod, field, ref string, policy v1.PullPolicy, have *image.Image, report func(image.Progress)) (pulled, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	creds := w.credentials(ctx, pod, ref)
	if have != nil && have.Allows(creds) {
		return pulled{image: have, was: true}, nil
	}
	if policy == v1.PullNever {
		return pulled{}, errNeverPull
	}
	w.r.Sink.ContainerEvent(pod, field, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", ref))
	began := now()
	var last image.Progress
	note := func(p image.Progress) {
		last = p
		if report != nil {
			report(p)
		}
	}
	img, err := w.fetchImage(ctx, ref, policy == v1.PullIfNotPresent && have == nil, creds, note)
	if err != nil {
		return pulled{}, err
	}
	w.r.Sink.ContainerEvent(pod, field, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		ref, last.Took.Truncate(time.Millisecond), now().Sub(began).Truncate(time.Millisecond), w.r.Images.SizeOf(ctx, img)))
	return pulled{image: img}, nil
}

// fetchImage asks peers for a loaded image of that name first, if that counts:
// what people have loaded goes before what a registry has under the same name.
func (w *worker) fetchImage(ctx context.Context, ref string, loaded bool, creds []image.Credentials, report func(image.Progress)) (*image.Image, error) {
	if loaded {
		img, err := w.r.Images.PullLoaded(ctx, ref, "", report)
		if !errors.Is(err, image.ErrNotPresent) {
			return img, err
		}
	}
	return w.r.Images.Pull(ctx, ref, creds, report)
}

// pullWords tells now and then how far a long pull is.
func (w *worker) pullWords(pod *v1.Pod, field string, s *slot, ref string) func(image.Progress) {
	next := now().Add(pullFirstWord)
	return func(p image.Progress) {
		if now().Before(next) {
			return
		}
		next = now().Add(pullNextWord)
		message := pullWord(ref, p)
		w.r.Sink.ContainerEvent(pod, field, v1.EventTypeNormal, "Pulling", message)
		w.tell(func(*worker) {
			if s.waiting.Reason == "" && s.pull.running {
				s.waiting.Message = message
			}
		})
	}
}

func pullWord(ref string, p image.Progress) string {
	const mib = 1 << 20
	text := fmt.Sprintf("Pulling image %q: %s, %d MiB", ref, p.Status, p.Bytes/mib)
	if p.Total > 0 {
		text += fmt.Sprintf(" of %d MiB", p.Total/mib)
	}
	if p.PeerBytes > 0 {
		text += fmt.Sprintf(", %d MiB of them from other hosts", p.PeerBytes/mib)
	}
	return text
}

func (w *worker) pullFailed(pod *v1.Pod, s *slot, err error) time.Time {
	delay := min(backoffFirst<<min(s.pull.failures, 10), backoffMax)
	s.pull.failures++
	s.pull.notBefore = now().Add(delay)
	s.waiting = v1.ContainerStateWaiting{Reason: reasonErrPull, Message: err.Error()}
	if errors.Is(err, image.ErrRegistryUnavailable) {
		s.waiting.Reason = image.ErrRegistryUnavailable.Error()
		s.waiting.Message = fmt.Sprintf("image pull failed for %s because the registry is unavailable: %v", s.spec.Image, err)
	}
	s.pull.problem = s.waiting.Reason + ": " + s.waiting.Message
	w.event(pod, s, v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", s.spec.Image, err))
	w.event(pod, s, v1.EventTypeWarning, "Failed", "Error: "+s.waiting.Reason)
	w.publish(pod)
	return s.pull.notBefore
}

func (w *worker) imageBackOff(pod *v1.Pod, s *slot) {
	if s.waiting.Reason == reasonPullBackOff {
		return
	}
	message := fmt.Sprintf("Back-off pulling image %q", s.spec.Image)
	w.event(pod, s, v1.EventTypeNormal, "BackOff", message)
	w.event(pod, s, v1.EventTypeWarning, "Failed", "Error: "+reasonPullBackOff)
	s.waiting = v1.ContainerStateWaiting{Reason: reasonPullBackOff, Message: message + ": " + s.pull.problem}
}

// credentials are those of the pod's pull secrets that fit the image. A secret
// that is missing is not fatal: the image may be public.
func (w *worker) credentials(ctx context.Context, pod *v1.Pod, ref string) []image.Credentials {
	var out []image.Credentials
	var missing []string
	for _, s := range pod.Spec.ImagePullSecrets {
		if s.Name == "" {
			continue
		}
		secret, err := w.r.Source.Secret(ctx, pod.Namespace, s.Name)
		if err != nil {
			w.log.Warn("image pull secret cannot be read", "secret", s.Name, "error", err)
			missing = append(missing, s.Name)
			continue
		}
		found, err := image.FromSecret(secret, ref)
		if err != nil {
			w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", err.Error())
			continue
		}
		out = append(out, found...)
	}
	if len(missing) > 0 {
		w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	return out
}
