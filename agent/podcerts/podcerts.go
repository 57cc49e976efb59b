// Package podcerts gives projected volumes trust bundles (KEP-3257) and
// certificates of their pods (KEP-4317), by way of the kubelet's own managers.
//
// Always true: nothing is watched and nothing runs before the first pod asks;
// keys are only in memory, so a daemon that starts again asks for new ones.
//
// The agent makes one, which volumes ask, and tells it of pods that are gone.
package podcerts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	certsv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/kubelet/clustertrustbundle"
	"k8s.io/kubernetes/pkg/kubelet/podcertificate"
	"k8s.io/utils/clock"
)

const (
	// trustCacheMax bounds the normalised bundles remembered, as the kubelet's.
	trustCacheMax = 256
	// issuedAfter is how long after an answer to a request the pod is told, for
	// the manager to take it in; a pod that comes too early tries again.
	issuedAfter = 100 * time.Millisecond
)

// Event tells the user of something about a pod.
type Event func(pod *v1.Pod, kind, reason, message string)

// Certificates answers volumes.
type Certificates struct {
	kube    kubernetes.Interface
	node    string
	changed func(types.UID)
	event   Event

	mu      sync.Mutex
	ctx     context.Context                // of Run; guarded by mu
	trust   clustertrustbundle.Manager     // nil before it is needed; guarded by mu
	issuing *podcertificate.IssuingManager // nil before it is needed; guarded by mu
	pods    map[types.UID]*v1.Pod          // with certificates; guarded by mu
	wg      sync.WaitGroup
}

// New makes one for a node's pods. changed is told of pods whose certificates
// may have come.
func New(kube kubernetes.Interface, node string, changed func(types.UID), event Event) *Certificates {
	return &Certificates{kube: kube, node: node, changed: changed, event: event, pods: map[types.UID]*v1.Pod{}}
}

// Run lets the managers run until ctx ends.
func (c *Certificates) Run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	<-ctx.Done()
	c.wg.Wait()
	return nil
}

var errNotRunning = errors.New("the agent is not running yet")

// TrustAnchors gives the certificates of the bundles that a source names, as
// PEM, each once.
func (c *Certificates) TrustAnchors(ctx context.Context, p *v1.ClusterTrustBundleProjection) ([]byte, error) {
	c.mu.Lock()
	if c.trust == nil && c.ctx != nil {
		c.trust = clustertrustbundle.NewLazyInformerManager(c.ctx, c.kube, trustCacheMax)
	}
	trust := c.trust
	c.mu.Unlock()
	optional := p.Optional != nil && *p.Optional
	switch {
	case trust == nil:
		return nil, errNotRunning
	case p.Name != nil:
		return trust.GetTrustAnchorsByName(ctx, *p.Name, optional)
	case p.SignerName != nil:
		return trust.GetTrustAnchorsBySigner(ctx, *p.SignerName, p.LabelSelector, optional)
	}
	return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
}

// PodCertificate gives the key and the certificates of one source of a pod's
// volume, as PEM. The first call asks for them, and is an error.
func (c *Certificates) PodCertificate(ctx context.Context, pod *v1.Pod, volume string, source int) (key, chain []byte, err error) {
	c.mu.Lock()
	if c.ctx == nil || c.ctx.Err() != nil {
		c.mu.Unlock()
		return nil, nil, errNotRunning
	}
	if c.issuing == nil {
		c.begin()
	}
	issuing, fresh := c.issuing, c.pods[pod.UID] == nil
	c.pods[pod.UID] = pod
	c.mu.Unlock()
	if fresh {
		issuing.TrackPod(ctx, pod)
	}
	return issuing.GetPodCertificateCredentialBundle(ctx, pod.Namespace, pod.Name, string(pod.UID), volume, source)
}

// begin is called with mu held.
func (c *Certificates) begin() {
	requests := informers.NewSharedInformerFactoryWithOptions(c.kube, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", c.node).String()
	}))
	nodes := informers.NewSharedInformerFactoryWithOptions(c.kube, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", c.node).String()
	}))
	pcrs := requests.Certificates().V1().PodCertificateRequests()
	c.issuing = podcertificate.NewIssuingManager(c.kube, (*podList)(c), recorder(c.event), pcrs, nodes.Core().V1().Nodes(), types.NodeName(c.node), clock.RealClock{})
	_, _ = pcrs.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{ // fails only for informers that have ended
		UpdateFunc: func(_, obj any) {
			if r, ok := obj.(*certsv1.PodCertificateRequest); ok {
				time.AfterFunc(issuedAfter, func() { c.changed(r.Spec.PodUID) })
			}
		},
	})
	ctx, issuing := c.ctx, c.issuing
	for _, f := range []informers.SharedInformerFactory{requests, nodes} {
		f.Start(ctx.Done())
		c.wg.Go(f.Shutdown) // returns after ctx ended
	}
	c.wg.Go(func() { issuing.Run(ctx) })
}

// Drop forgets a pod.
func (c *Certificates) Drop(pod *v1.Pod) {
	c.mu.Lock()
	_, known := c.pods[pod.UID]
	delete(c.pods, pod.UID)
	ctx, issuing := c.ctx, c.issuing
	c.mu.Unlock()
	if known {
		issuing.ForgetPod(ctx, pod)
	}
}

// podList is what the kubelet's manager knows of pods.
type podList Certificates

func (l *podList) GetPodByUID(uid types.UID) (*v1.Pod, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pod, ok := l.pods[uid]
	return pod, ok
}

func (l *podList) GetPods() []*v1.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*v1.Pod, 0, len(l.pods))
	for _, pod := range l.pods {
		out = append(out, pod)
	}
	return out
}

// recorder hands the manager's events on.
type recorder Event

func (r recorder) Event(obj runtime.Object, kind, reason, message string) {
	if pod, ok := obj.(*v1.Pod); ok {
		r(pod, kind, reason, message)
	}
}

func (r recorder) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	r.Event(obj, kind, reason, fmt.Sprintf(format, args...))
}

func (r recorder) AnnotatedEventf(obj runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Eventf(obj, kind, reason, format, args...)
}
