package runner

import (
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/kubelet/status"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
)

// Waiting reasons, as users of the kubelet know them.
const (
	reasonCreating    = "ContainerCreating"
	reasonInit        = "PodInitializing"
	reasonCrashLoop   = "CrashLoopBackOff"
	reasonErrPull     = "ErrImagePull"
	reasonPullBackOff = "ImagePullBackOff"
	reasonNeverPull   = "ErrImageNeverPull"
	reasonInspect     = "ImageInspectError"
	reasonImageName   = "InvalidImageName"
	reasonConfigError = "CreateContainerConfigError"
	reasonCreateError = "CreateContainerError"
	reasonRunError    = "RunContainerError"
)

func (w *worker) hostIPs() []string { return texts(w.r.NodeIPs()) }
func (w *worker) podIPs() []string  { return texts(w.box.ips) }

func texts(ips []netip.Addr) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	return out
}

// status is the pod's status now, made as the kubelet's generateAPIPodStatus
// and the mergePodStatus of its status manager make it. Transition times are
// kept where nothing changed since the last one sent, or the API's.
func (w *worker) status(pod *v1.Pod) v1.PodStatus {
	before := &pod.Status
	if w.sent != nil {
		before = w.sent
	}
	if w.released {
		return *before
	}
	st := w.base(pod)
	if w.rejected != nil {
		st.Phase, st.Reason, st.Message = v1.PodFailed, w.rejected.reason, "Pod was rejected: "+w.rejected.message
		st.Conditions = pod.Status.Conditions
		return st
	}
	w.fillIPs(before, &st)
	w.fillContainers(pod, &st)
	w.fillPodResources(pod, &st)
	w.fillPhase(pod, before, &st)
	st.Conditions = w.conditions(pod, before, &st)
	w.fillEviction(before, &st)
	return st
}

// base has what does not depend on containers.
func (w *worker) base(pod *v1.Pod) v1.PodStatus {
	st := v1.PodStatus{
		ObservedGeneration: pod.Generation,
		QOSClass:           QOSClass(pod),
		NominatedNodeName:  pod.Status.NominatedNodeName,
		// Others own these; a status is written as a whole.
		ResourceClaimStatuses:                pod.Status.ResourceClaimStatuses,
		ExtendedResourceClaimStatus:          pod.Status.ExtendedResourceClaimStatus,
		NodeAllocatableResourceClaimStatuses: pod.Status.NodeAllocatableResourceClaimStatuses,
	}
	start := timeOf(w.startTime)
	st.StartTime = &start
	if ips := w.hostIPs(); len(ips) > 0 {
		st.HostIP = ips[0]
		for _, ip := range ips {
			st.HostIPs = append(st.HostIPs, v1.HostIP{IP: ip})
		}
	}
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

func (w *worker) fillContainers(pod *v1.Pod, st *v1.PodStatus) {
	for _, s := range w.slots {
		cs := w.containerStatus(pod, s)
		fillResources(s, &cs)
		switch s.role {
		case roleMain:
			st.ContainerStatuses = append(st.ContainerStatuses, cs)
		case roleEphemeral:
			st.EphemeralContainerStatuses = append(st.EphemeralContainerStatuses, cs)
		default:
			st.InitContainerStatuses = append(st.InitContainerStatuses, cs)
		}
	}
	// The kubelet sorts these by name, so that their order never changes.
	byName := func(a, b v1.ContainerStatus) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}
	slices.SortStableFunc(st.ContainerStatuses, byName)
	slices.SortStableFunc(st.EphemeralContainerStatuses, byName)
}

// fillPhase sets the phase. A terminal one is never taken back, and never set
// while something still runs.
func (w *worker) fillPhase(pod *v1.Pod, before, st *v1.PodStatus) {
	running := slices.ContainsFunc(w.slots, (*slot).running)
	over := w.stop != nil && !running
	st.Phase = phaseOf(pod, st, over, w.begun())
	if st.Phase == before.Phase {
		st.Reason, st.Message = before.Reason, before.Message
	}
	if w.stop == nil && terminal(st.Phase) && slices.ContainsFunc(w.slots, (*slot).comesAgain) {
		st.Phase = v1.PodRunning
	}
	switch {
	case terminal(before.Phase):
		st.Phase, st.Reason, st.Message = before.Phase, before.Reason, before.Message
	case w.expired:
		st.Phase, st.Reason, st.Message = v1.PodFailed, reasonDeadline, messageDeadline
	case w.evicted != nil:
		w.evicted.change(st)
	}
	if w.stop != nil && w.stop.clean {
		w.terminate(st)
	}
	if terminal(st.Phase) && !terminal(before.Phase) && running {
		st.Phase, st.Reason, st.Message = before.Phase, before.Reason, before.Message
		if st.Phase == "" {
			st.Phase = v1.PodPending
		}
	}
}

func terminal(p v1.PodPhase) bool { return p == v1.PodFailed || p == v1.PodSucceeded }

// conditions are the pod's conditions in the kubelet's order, those of others
// before them.
func (w *worker) conditions(pod *v1.Pod, before, st *v1.PodStatus) []v1.PodCondition {
	var out []v1.PodCondition
	for _, c := range pod.Status.Conditions {
		if !kubetypes.PodConditionByKubelet(c.Type) {
			out = append(out, c)
		}
	}
	gates := out
	all := append(slices.Clone(st.InitContainerStatuses), st.ContainerStatuses...)
	mine := []v1.PodCondition{
		w.readyToStart(),
		status.GeneratePodInitializedCondition(pod, before, all, st.Phase),
		status.GeneratePodReadyCondition(pod, before, gates, all, st.Phase),
		status.GenerateContainersReadyCondition(pod, before, all, st.Phase),
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	}
	if podutil.AllContainersCouldRestart(&pod.Spec) {
		mine = append(mine, w.allRestarting(st.Phase))
	}
	stamp := metav1.Now().Rfc3339Copy()
	for i := range mine {
		c := &mine[i]
		c.ObservedGeneration = pod.Generation
		if c.Type == v1.AllContainersRestarting {
			c.ObservedGeneration = 0
		}
		c.LastTransitionTime = stamp
		if _, old := podutil.GetPodConditionFromList(before.Conditions, c.Type); old != nil && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	return append(append(out, mine...), w.resizeConditions(before)...)
}

// readyToStart says whether the pod has its network and volumes (KEP-3085).
func (w *worker) readyToStart() v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue}
	if !w.box.ready {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, kubetypes.PodSandboxNotReadyReason, kubetypes.PodSandboxNotReadyMsgNoPodSandbox
		if w.stop != nil {
			c.Message = kubetypes.PodSandboxNotReadyMsgSandboxNotReady
		}
	}
	return c
}

// terminate makes the last status of a pod that is gone from this host: what
// nobody saw end has failed (the kubelet's TerminatePod).
func (w *worker) terminate(st *v1.PodStatus) {
	unknown := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason: kubecontainer.ContainerReasonStatusUnknown, ExitCode: exitKilled,
		Message: "The container could not be located when the pod was terminated",
	}}
	if w.initialized() {
		for i := range st.ContainerStatuses {
			if c := &st.ContainerStatuses[i]; c.State.Terminated == nil {
				c.State = unknown
			}
		}
	}
	last := 0 // the first counts always
	for i := range st.InitContainerStatuses {
		if c := &st.InitContainerStatuses[i]; c.State.Waiting == nil || c.LastTerminationState.Terminated != nil {
			last = i
		}
	}
	for i := range st.InitContainerStatuses {
		if c := &st.InitContainerStatuses[i]; i <= last && c.State.Terminated == nil {
			c.State = unknown
		}
	}
	if !terminal(st.Phase) {
		st.Phase = v1.PodFailed
	}
}

// initialized reports whether the main containers could start.
func (w *worker) initialized() bool {
	if w.begun() {
		return true
	}
	var lastInit *slot
	for _, s := range w.slots {
		if s.role == roleInit || s.role == roleSidecar {
			lastInit = s
		}
	}
	switch {
	case lastInit == nil:
		return true
	case lastInit.role == roleSidecar:
		return lastInit.started
	}
	return lastInit.succeeded()
}
