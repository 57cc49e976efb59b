package agent

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// events sends Kubernetes Events without ever delaying a pod: the recorder's
// queue is bounded and drops when full.
type events struct {
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	kube        kubernetes.Interface
}

func newEvents(kube kubernetes.Interface, node string) *events {
	b := record.NewBroadcaster()
	return &events{
		broadcaster: b, kube: kube,
		recorder: b.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: node}),
	}
}

func (e *events) run(ctx context.Context) error {
	watcher := e.broadcaster.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: e.kube.CoreV1().Events("")})
	<-ctx.Done()
	watcher.Stop()
	e.broadcaster.Shutdown()
	return nil
}

func (e *events) pod(pod *v1.Pod, field, kind, reason, message string) {
	ref := &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name,
		UID: pod.UID, ResourceVersion: pod.ResourceVersion, FieldPath: field,
	}
	e.recorder.Event(ref, kind, reason, message)
}

// NodeEvent sends an Event about this host.
func (a *Agent) NodeEvent(kind, reason, message string) {
	a.events.node(a.o.NodeName, kind, reason, message)
}

// LookAtNode has what the Node says of this host written soon, rather than within
// minutes: Conditions say something else.
func (a *Agent) LookAtNode() { a.node.poke() }

// node sends an event about this host. Those about nodes carry the name as
// uid, as the kubelet's do.
func (e *events) node(node, kind, reason, message string) {
	e.recorder.Event(&v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node, UID: types.UID(node)}, kind, reason, message)
}
