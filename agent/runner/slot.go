package runner

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"shoal/agent/cgroup"
	"shoal/agent/image"
	"shoal/agent/prober"
	"shoal/agent/secretspec"
)

// role is what a container is to its pod.
type role int

const (
	roleInit    role = iota // runs to its end before the next starts
	roleSidecar             // an init container that is kept running
	roleMain
	roleEphemeral // added to the running pod to look at it; runs once
	// roleImageVolume is no container's: its slot stands for an image to pull.
	roleImageVolume
)

// slot is one container of the pod's specification, through all attempts to
// run it. Only the pod's worker touches it.
type slot struct {
	spec   *v1.Container
	role   role
	target string // container whose processes an ephemeral one sees; may be empty

	image    *image.Image
	pull     pullState
	prepared *prepared // a snapshot made ahead of the start

	current  *instance // the running attempt, or the last one
	restarts int32
	last     *v1.ContainerStateTerminated // of the attempt before current
	waiting  v1.ContainerStateWaiting     // why nothing runs; Reason "" is the default

	crash   backoff
	told    bool      // the BackOff event of this wait was sent
	retries int       // starts in a row that failed before anything ran
	retryAt time.Time // the next such start; zero is at once
	done    bool      // ended for good in an earlier run, which the API alone remembers
	ready   bool
	started bool
	// hookPending says that the postStart hook has not ended.
	hookPending bool
	mounts      []v1.VolumeMountStatus // of its status
	resume      bool                   // adopted: its probes have yet to start again
}

// prepared is a container id with its root file system, waiting to be used.
type prepared struct {
	id     string
	mounts []mountSpec
	hidden *secretspec.Hidden // nil before its specification is made
}

// redact takes what is hidden out of a runtime's error, which quotes the
// command it could not run.
func (p *prepared) redact(err error) error {
	if err == nil || p.hidden == nil {
		return err
	}
	text := p.hidden.Redact(err.Error())
	if text == err.Error() {
		return err
	}
	return errors.New(text)
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
	end       ending
	cleaned   bool // its task is deleted
	old       bool // of a sandbox that is no more
	again     bool // another attempt follows, however this one ends
	imageID   string
	imageName string
	console   string // directory of its console; empty without one
	asked     string // the image as the specification names it
	user      *v1.ContainerUser
	stopSig   unix.Signal
	resources v1.ResourceRequirements // it has; the specification may ask for others
	limits    cgroup.Limits           // of resources

	probes   []*prober.Probe
	stopHook context.CancelFunc // nil without a hook that runs
}

func (s *slot) running() bool { return s.current != nil && s.current.exit == nil }

// succeeded reports whether the last attempt ended with 0.
func (s *slot) succeeded() bool {
	return s.done || (s.current != nil && s.current.exit != nil && s.current.exit.ExitCode == 0)
}

func (i *instance) closeFD() {
	if i.pidfd >= 0 {
		_ = unix.Close(i.pidfd)
		i.pidfd = -1
	}
}

// declared are the pod's containers as slots, in start order.
func declared(pod *v1.Pod) []slot {
	var out []slot
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		s := slot{spec: c, role: roleInit}
		if podutil.IsRestartableInitContainer(c) {
			s.role = roleSidecar
		}
		out = append(out, s)
	}
	for i := range pod.Spec.Containers {
		out = append(out, slot{spec: &pod.Spec.Containers[i], role: roleMain})
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		out = append(out, slot{spec: (*v1.Container)(&c.EphemeralContainerCommon), role: roleEphemeral, target: c.TargetContainerName})
	}
	return out
}

// follow takes over what the pod's specification says now. Only ephemeral
// containers are added to a pod; of the others some fields change.
func (w *worker) follow(pod *v1.Pod) {
	if w.followed == pod {
		return
	}
	w.followed = pod
	for _, d := range declared(pod) {
		s := w.slot(d.spec.Name)
		if s == nil {
			w.slots = append(w.slots, &d)
			continue
		}
		if s.spec.Image != d.spec.Image {
			s.image, s.pull, s.retryAt = nil, pullState{running: s.pull.running}, time.Time{}
		}
		s.spec = d.spec
	}
}

// slot finds a container of the pod by name.
func (w *worker) slot(name string) *slot {
	for _, s := range w.slots {
		if s.spec.Name == name {
			return s
		}
	}
	return nil
}

// lasting counts the containers the pod was made with.
func (w *worker) lasting() int {
	n := 0
	for _, s := range w.slots {
		if s.role != roleEphemeral {
			n++
		}
	}
	return n
}

func timeOf(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }
