package policy

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	networklisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// notEnforced is the reason of Events about policies.
const notEnforced = "NetworkPolicyNotEnforced"

// unenforced looks at the pods of a host without programs of ours at their links.
type unenforced struct {
	node     string
	events   record.EventRecorder
	pods     corelisters.PodLister
	policies networklisters.NetworkPolicyLister

	mu   sync.Mutex
	told map[types.UID]bool // guarded by mu
}

// WatchUnenforced is for a host whose pods have no program of ours at their links. It
// says so by an Event of each policy that selects one of them, once. The factory's
// informers call it for as long as they run.
func WatchUnenforced(factory informers.SharedInformerFactory, node string, events record.EventRecorder) error {
	u := &unenforced{
		node: node, events: events, told: map[types.UID]bool{},
		pods: factory.Core().V1().Pods().Lister(), policies: factory.Networking().V1().NetworkPolicies().Lister(),
	}
	for _, kind := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{factory.Core().V1().Pods().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: u.pod, UpdateFunc: func(_, obj any) { u.pod(obj) },
		}},
		{factory.Networking().V1().NetworkPolicies().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: u.policy, UpdateFunc: func(_, obj any) { u.policy(obj) }, DeleteFunc: u.gone,
		}},
	} {
		if _, err := kind.informer.AddEventHandler(kind.handler); err != nil {
			return fmt.Errorf("follow objects for policies that are not enforced: %w", err)
		}
	}
	return nil
}

func (u *unenforced) pod(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || !u.concerns(pod) {
		return
	}
	policies, err := u.policies.NetworkPolicies(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // the lister reads memory
	}
	for _, p := range policies {
		u.look(p, pod)
	}
}

func (u *unenforced) policy(obj any) {
	policy, ok := obj.(*networkingv1.NetworkPolicy)
	if !ok || u.knows(policy.UID) {
		return
	}
	pods, err := u.pods.Pods(policy.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, pod := range pods {
		if u.concerns(pod) {
			u.look(policy, pod)
		}
	}
}

func (u *unenforced) gone(obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	if policy, ok := obj.(*networkingv1.NetworkPolicy); ok {
		u.mu.Lock()
		delete(u.told, policy.UID)
		u.mu.Unlock()
	}
}

// concerns tells whether a policy could be enforced at the pod, were it another host.
func (u *unenforced) concerns(pod *corev1.Pod) bool {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	return pod.Spec.NodeName == u.node && !pod.Spec.HostNetwork && !ended
}

func (u *unenforced) knows(uid types.UID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.told[uid]
}

func (u *unenforced) look(policy *networkingv1.NetworkPolicy, pod *corev1.Pod) {
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
		return
	}
	u.mu.Lock()
	known := u.told[policy.UID]
	u.told[policy.UID] = true
	u.mu.Unlock()
	if known {
		return
	}
	u.events.Eventf(policy, corev1.EventTypeWarning, notEnforced,
		"Node %s gives its pods their network by CNI plugins, and shoal enforces no policy there: pod %s, and others on that node which this policy selects, are isolated only if a plugin does it. Where it must be enforced, keep such pods on nodes with the label shoal.dev/network-driver=shoal", u.node, pod.Name)
}
