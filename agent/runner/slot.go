package runner

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/agent/image"
)

// role is what a container is to its pod.
type role int

const (
	roleInit    role = iota // runs to its end before the next starts
	roleSidecar             // an init container that is kept running
	roleMain
)

// The kubelet's back-off for containers that keep dying and for images that
// cannot be pulled.
const (
	backoffFirst = 10 * time.Second
	backoffMax   = 5 * time.Minute
	// backoffReset is how long a container must have run to start over.
	backoffReset = 10 * time.Minute
)

// slot is one container of the pod's specification, through all attempts to
// run it. Only the pod's worker touches it.
type slot struct {
	spec *v1.Container
	role role

	image    *image.Image
	pull     pullState
	prepared *prepared // a snapshot made ahead of the start

	current  *instance // the running attempt, or the last one
	restarts int32
	last     *v1.ContainerStateTerminated // of the attempt before current
	waiting  v1.ContainerStateWaiting     // why nothing runs; Reason "" is the default

	backoff   time.Duration // before the next restart
	notBefore time.Time     // earliest next start
	told      bool          // the BackOff event of this wait was sent
	done      bool          // an init container that succeeded in an earlier run
	ready     bool
	started   bool
	probed    bool // the readiness probe passes, or there is none
	// hookPending says that the postStart hook has not ended.
	hookPending bool
	resume      bool // adopted: its probes have yet to start again
}

// pullState is where the image of a slot stands.
type pullState struct {
	running   bool
	failures  int
	notBefore time.Time
	always    bool // a pull was done for this pod, as policy Always asks
}

// prepared is a container id with its root file system, waiting to be used.
type prepared struct {
	id     string
	mounts []mountSpec
}

// instance is one attempt to run a container.
type instance struct {
	id        string
	attempt   int32
	pid       int
	pidfd     int // -1 when there is none
	startedAt time.Time
	exit      *v1.ContainerStateTerminated // nil while it runs
	killing   bool                         // it was told to stop
	signalled bool                         // the stop signal was sent
	cleaned   bool                         // its task is deleted
	imageID   string
	imageName string
	stopSig   unix.Signal

	stopProbes  context.CancelFunc // nil without probes
	killAt      time.Time          // SIGKILL is due then; zero if not
	hooked      bool               // the preStop hook was begun
	hookRunning bool
}

func (s *slot) running() bool { return s.current != nil && s.current.exit == nil }

// succeeded reports whether the last attempt ended with 0.
func (s *slot) succeeded() bool {
	return s.done || (s.current != nil && s.current.exit != nil && s.current.exit.ExitCode == 0)
}

// restartable applies the restart policy to a slot whose attempt ended.
func (s *slot) restartable(pod *v1.Pod) bool {
	if s.role == roleSidecar {
		return true
	}
	if s.current == nil || s.current.exit == nil {
		return true
	}
	policy := pod.Spec.RestartPolicy
	if s.spec.RestartPolicy != nil && s.role == roleMain {
		policy = v1.RestartPolicy(*s.spec.RestartPolicy)
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return s.current.exit.ExitCode != 0
	}
	// An init container is done once it succeeded, whatever the policy.
	return s.role == roleMain || s.current.exit.ExitCode != 0
}

// exited notes the end of the current attempt and when the next may start.
func (s *slot) exited(t *v1.ContainerStateTerminated) {
	s.current.exit = t
	s.current.closeFD()
	s.current.endProbes()
	s.ready, s.started = false, false
	ran := t.FinishedAt.Sub(t.StartedAt.Time)
	switch {
	case s.backoff == 0 || ran >= backoffReset:
		// The first restart is immediate, as the kubelet's is.
		s.backoff = backoffFirst
		s.notBefore = time.Time{}
		if s.restarts > 0 {
			s.notBefore = t.FinishedAt.Add(s.backoff)
		}
	default:
		s.notBefore = t.FinishedAt.Add(s.backoff)
		s.backoff = min(2*s.backoff, backoffMax)
	}
	s.told = false
}

func (i *instance) endProbes() {
	if i.stopProbes != nil {
		i.stopProbes()
		i.stopProbes = nil
	}
}

func (i *instance) closeFD() {
	if i.pidfd >= 0 {
		_ = unix.Close(i.pidfd)
		i.pidfd = -1
	}
}

// slotsOf makes the slots of a pod, in start order.
func slotsOf(pod *v1.Pod) []*slot {
	var out []*slot
	for i := range pod.Spec.InitContainers {
		s := &slot{spec: &pod.Spec.InitContainers[i], role: roleInit}
		if p := s.spec.RestartPolicy; p != nil && *p == v1.ContainerRestartPolicyAlways {
			s.role = roleSidecar
		}
		out = append(out, s)
	}
	for i := range pod.Spec.Containers {
		out = append(out, &slot{spec: &pod.Spec.Containers[i], role: roleMain})
	}
	return out
}

func timeOf(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }
