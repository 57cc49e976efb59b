package agent

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
	"k8s.io/kubernetes/pkg/kubelet/preemption"

	"shoal/agent/shutdown"
)

// freshNode bounds the one read of the Node that an admission may need.
const freshNode = 2 * time.Second

// newAdmission makes the kubelet's own judgement of whether a pod can run here:
// its resources and ports beside the others', the node's labels and taints, its
// operating system. The pods of a critical one's way are evicted for it.
func (a *Agent) newAdmission() lifecycle.PodAdmitHandler {
	kill := func(pod *v1.Pod, _ bool, grace *int64, change func(*v1.PodStatus)) error {
		seconds := int64(0)
		if grace != nil {
			seconds = *grace
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds)*time.Second+10*time.Second)
		defer cancel()
		return a.runner.Evict(ctx, pod.UID, seconds, change)
	}
	return lifecycle.NewPredicateAdmitHandler(a.nodeToAdmitBy,
		preemption.NewCriticalPodAdmissionHandler(a.running, kill, a.events.recorder),
		a.countDevices)
}

// nodeToAdmitBy is this host's Node as last heard, or, where a pod would be
// refused for a label, as it is now.
func (a *Agent) nodeToAdmitBy(ctx context.Context, cached bool) (*v1.Node, error) {
	if cached {
		return a.node.self(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, freshNode)
	defer cancel()
	live, err := a.kube.CoreV1().Nodes().Get(ctx, a.o.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	a.node.note(live)
	return a.node.self(), nil
}

// admit is the host's own last word on whether a pod fits: the scheduler
// placed it on what it knew then. Pods are admitted one by one; one that has
// not been admitted yet takes nothing from those before it.
func (a *Agent) admit(pod *v1.Pod) (reason, message string) {
	if reason, message = a.security.refuse(pod); reason != "" {
		return reason, message
	}
	if a.shutdown.Closing() {
		return shutdown.RejectReason, shutdown.RejectMessage
	}
	a.admitting.Lock()
	defer a.admitting.Unlock()
	if a.monitor != nil {
		if reason, message = a.monitor.Admit(pod); reason != "" {
			return reason, message
		}
	}
	if reason, message = a.giveDevices(context.Background(), pod); reason != "" {
		return reason, message
	}
	if reason, message = a.fits(pod, lifecycle.AddOperation); reason != "" {
		a.takeDevices(pod)
		return reason, message
	}
	a.pods.grant(pod)
	return "", ""
}

// fits is called with admitting held.
func (a *Agent) fits(pod *v1.Pod, what lifecycle.Operation) (reason, message string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r := a.admission.Admit(ctx, &lifecycle.PodAdmitAttributes{Pod: pod, OtherPods: a.pods.granted(pod.UID), Operation: what})
	if r.Admit {
		return "", ""
	}
	return r.Reason, r.Message
}
