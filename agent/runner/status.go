package runner

import (
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Waiting reasons, as users of the kubelet know them.
const (
	reasonCreating    = "ContainerCreating"
	reasonInit        = "PodInitializing"
	reasonCrashLoop   = "CrashLoopBackOff"
	reasonErrPull     = "ErrImagePull"
	reasonPullBackOff = "ImagePullBackOff"
	reasonNeverPull   = "ErrImageNeverPull"
	reasonConfigError = "CreateContainerConfigError"
	reasonCreateError = "CreateContainerError"
	reasonRunError    = "RunContainerError"
)

func (w *worker) hostIPs() []string { return texts(w.r.NodeIPs) }
func (w *worker) podIPs() []string  { return texts(w.box.ips) }

func texts(ips []netip.Addr) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	return out
}

// status is the pod's status now, with transition times kept where nothing
// changed since the last one sent, or the API's.
func (w *worker) status(pod *v1.Pod) v1.PodStatus {
	before := &pod.Status
	if w.sent != nil {
		before = w.sent
	}
	if w.released {
		return *before
	}
	st := v1.PodStatus{
		ObservedGeneration: pod.Generation,
		QOSClass:           QOSClass(pod),
		NominatedNodeName:  pod.Status.NominatedNodeName,
	}
	start := timeOf(w.startTime)
	st.StartTime = &start
	if ips := w.hostIPs(); len(ips) > 0 {
		st.HostIP = ips[0]
		for _, ip := range ips {
			st.HostIPs = append(st.HostIPs, v1.HostIP{IP: ip})
		}
	}
	if w.rejected != nil {
		st.Phase, st.Reason, st.Message = v1.PodFailed, w.rejected.reason, "Pod was rejected: "+w.rejected.message
		st.Conditions = pod.Status.Conditions
		return st
	}
	w.fillIPs(before, &st)
	initDone := w.initDone()
	for _, s := range w.slots {
		cs := w.containerStatus(pod, s, initDone)
		if s.role == roleMain {
			st.ContainerStatuses = append(st.ContainerStatuses, cs)
		} else {
			st.InitContainerStatuses = append(st.InitContainerStatuses, cs)
		}
	}
	st.Phase = phase(pod, w.slots, initDone)
	switch {
	case terminal(before.Phase):
		st.Phase, st.Reason, st.Message = before.Phase, before.Reason, before.Message
	case w.expired && !slices.ContainsFunc(w.slots, (*slot).running):
		st.Phase, st.Reason, st.Message = v1.PodFailed, reasonDeadline, messageDeadline
	}
	st.Conditions = conditions(pod, before.Conditions, &st, w.box.ready, initDone)
	return st
}

func (w *worker) fillIPs(before *v1.PodStatus, st *v1.PodStatus) {
	ips := w.podIPs()
	if len(ips) == 0 {
		st.PodIP, st.PodIPs = before.PodIP, before.PodIPs
		return
	}
	st.PodIP = ips[0]
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, v1.PodIP{IP: ip})
	}
}

func terminal(p v1.PodPhase) bool { return p == v1.PodFailed || p == v1.PodSucceeded }

func (w *worker) initDone() bool {
	for _, s := range w.slots {
		switch {
		case s.role == roleInit && !s.succeeded():
			return false
		case s.role == roleSidecar && !s.started && s.current == nil:
			return false
		}
	}
	return true
}

func (w *worker) containerStatus(pod *v1.Pod, s *slot, initDone bool) v1.ContainerStatus {
	cs := v1.ContainerStatus{Name: s.spec.Name, Image: s.spec.Image, RestartCount: s.restarts, Ready: s.ready}
	started := s.started
	cs.Started = &started
	if s.last != nil {
		cs.LastTerminationState.Terminated = s.last
	}
	if s.current != nil {
		cs.ContainerID = "containerd://" + s.current.id
		cs.Image, cs.ImageID = s.current.imageName, s.current.imageID
	}
	switch {
	case s.done && s.current == nil:
		cs = w.earlier(pod, s, cs)
		cs.Ready = true
	case s.running():
		at := timeOf(s.current.startedAt)
		cs.State.Running = &v1.ContainerStateRunning{StartedAt: at}
	case s.current != nil && (s.waiting.Reason == "" || w.stop != nil):
		cs.State.Terminated = s.current.exit
		cs.Ready = s.role == roleInit && s.current.exit.ExitCode == 0
	case s.current != nil:
		waiting := s.waiting
		cs.State.Waiting = &waiting
		cs.LastTerminationState.Terminated = s.current.exit
	case w.stop != nil && ended(pod, s) != nil:
		// It ended, was taken away, and the object's deletion is not through:
		// the API refuses to take an end back.
		cs = *ended(pod, s)
	default:
		waiting := s.waiting
		if waiting.Reason == "" {
			waiting.Reason = reasonCreating
			if !initDone && s.role == roleMain || (s.role != roleMain && len(w.slots) > 0 && w.slots[0] != s) {
				waiting.Reason = reasonInit
			}
			if !initDone && s.role != roleMain {
				waiting.Reason = reasonInit
			}
		}
		cs.State.Waiting = &waiting
	}
	return cs
}

// ended is the container's status in the API if that says it has ended.
func ended(pod *v1.Pod, s *slot) *v1.ContainerStatus {
	known := pod.Status.ContainerStatuses
	if s.role != roleMain {
		known = pod.Status.InitContainerStatuses
	}
	for i := range known {
		if known[i].Name == s.spec.Name && known[i].State.Terminated != nil {
			return &known[i]
		}
	}
	return nil
}

// earlier is the status an init container had in an earlier daemon's time.
func (w *worker) earlier(pod *v1.Pod, s *slot, cs v1.ContainerStatus) v1.ContainerStatus {
	for _, old := range pod.Status.InitContainerStatuses {
		if old.Name == s.spec.Name {
			return old
		}
	}
	return cs
}

// phase summarises the containers as the API defines it.
func phase(pod *v1.Pod, slots []*slot, initDone bool) v1.PodPhase {
	var waiting, running, stopped, succeeded int
	for _, s := range slots {
		if s.role == roleInit && s.current != nil && s.current.exit != nil &&
			s.current.exit.ExitCode != 0 && !s.restartable(pod) {
			return v1.PodFailed
		}
		if s.role != roleMain {
			continue
		}
		switch {
		case s.current == nil:
			waiting++
		case s.running():
			running++
		default:
			stopped++
			if s.succeeded() {
				succeeded++
			}
		}
	}
	switch {
	case !initDone || waiting > 0:
		return v1.PodPending
	case running > 0:
		return v1.PodRunning
	case pod.DeletionTimestamp == nil && pod.Spec.RestartPolicy != v1.RestartPolicyNever && anyRestartable(pod, slots):
		return v1.PodRunning
	case stopped == succeeded:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

func anyRestartable(pod *v1.Pod, slots []*slot) bool {
	return slices.ContainsFunc(slots, func(s *slot) bool { return s.role == roleMain && s.restartable(pod) })
}

// conditions are the pod's conditions in the kubelet's order, those of
// others kept.
func conditions(pod *v1.Pod, before []v1.PodCondition, st *v1.PodStatus, sandboxReady, initDone bool) []v1.PodCondition {
	unready := unreadyNames(st)
	done := st.Phase == v1.PodSucceeded
	containersReady := condition(v1.ContainersReady, len(unready) == 0 && st.Phase == v1.PodRunning,
		notReadyReason(done, st.Phase), notReadyMessage(done, unready))
	ready := condition(v1.PodReady, containersReady.Status == v1.ConditionTrue, containersReady.Reason, containersReady.Message)
	if ready.Status == v1.ConditionTrue {
		if missing := closedGates(pod); len(missing) > 0 {
			ready = condition(v1.PodReady, false, "ReadinessGatesNotReady", strings.Join(missing, ", "))
		}
	}
	mine := []v1.PodCondition{
		condition(v1.PodReadyToStartContainers, sandboxReady, "", ""),
		condition(v1.PodInitialized, initDone, initReason(st, initDone), ""),
		ready,
		containersReady,
	}
	return mergeConditions(pod, before, mine)
}

func condition(kind v1.PodConditionType, ok bool, reason, message string) v1.PodCondition {
	c := v1.PodCondition{Type: kind, Status: v1.ConditionTrue}
	if !ok {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, reason, message
	}
	return c
}

func initReason(st *v1.PodStatus, done bool) string {
	if done && st.Phase != v1.PodSucceeded {
		return ""
	}
	if done {
		return "PodCompleted"
	}
	return "ContainersNotInitialized"
}

func unreadyNames(st *v1.PodStatus) []string {
	var out []string
	for _, c := range st.ContainerStatuses {
		if !c.Ready {
			out = append(out, c.Name)
		}
	}
	return out
}

func notReadyReason(done bool, p v1.PodPhase) string {
	switch {
	case done:
		return "PodCompleted"
	case p == v1.PodFailed:
		return "PodFailed"
	}
	return "ContainersNotReady"
}

func notReadyMessage(done bool, names []string) string {
	if done || len(names) == 0 {
		return ""
	}
	return "containers with unready status: [" + strings.Join(names, " ") + "]"
}

func closedGates(pod *v1.Pod) []string {
	var out []string
	for _, gate := range pod.Spec.ReadinessGates {
		open := slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == gate.ConditionType && c.Status == v1.ConditionTrue
		})
		if !open {
			out = append(out, "corresponding condition of pod readiness gate \""+string(gate.ConditionType)+"\" does not exist or is not true.")
		}
	}
	return out
}

// mergeConditions keeps transition times of what did not change and adds the
// conditions others own.
func mergeConditions(pod *v1.Pod, before, mine []v1.PodCondition) []v1.PodCondition {
	stamp := metav1.Now().Rfc3339Copy()
	for i := range mine {
		mine[i].ObservedGeneration = pod.Generation
		mine[i].LastTransitionTime = stamp
		for _, old := range before {
			if old.Type == mine[i].Type && old.Status == mine[i].Status {
				mine[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	for _, other := range pod.Status.Conditions {
		if !slices.ContainsFunc(mine, func(c v1.PodCondition) bool { return c.Type == other.Type }) {
			mine = append(mine, other)
		}
	}
	return mine
}
