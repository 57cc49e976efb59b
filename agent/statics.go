package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"

	"shoal/agent/static"
)

// mirrorRetry and mirrorRetryMax bound the wait until a mirror pod that could
// not be written is tried again.
const (
	mirrorRetry    = time.Second
	mirrorRetryMax = 30 * time.Second
)

// statics runs the pods of the manifests directory and shows each in the API
// as a mirror pod, which nobody can change or end from there.
type statics struct {
	a   *Agent
	dir *static.Dir

	mu sync.Mutex
	// wanted is what the files say, by "namespace/name"; guarded by mu.
	wanted map[string]*v1.Pod
	// running is what the runner was told to run and has not reported gone, by
	// "namespace/name": a changed pod waits for the one before it; guarded by mu.
	running map[string]*v1.Pod
	// mirrors are the API's, by "namespace/name"; guarded by mu.
	mirrors map[string]*v1.Pod
	// status is the runner's last, by the static pod's uid; guarded by mu.
	status map[types.UID]v1.PodStatus
	synced bool // mirrors are complete; guarded by mu
	wake   chan struct{}
}

func newStatics(a *Agent) *statics {
	s := &statics{
		a: a, wanted: map[string]*v1.Pod{}, running: map[string]*v1.Pod{}, mirrors: map[string]*v1.Pod{},
		status: map[types.UID]v1.PodStatus{}, wake: make(chan struct{}, 1),
	}
	if a.o.Manifests != "" {
		s.dir = &static.Dir{Path: a.o.Manifests, Node: a.o.NodeName, Bad: func(file string, err error) {
			a.log.Warn("manifest is not used", "file", file, "error", err)
			a.events.node(a.o.NodeName, v1.EventTypeWarning, "InvalidManifest", fmt.Sprintf("%s is not used: %s", file, err))
		}}
	}
	return s
}

func nameOf(pod *v1.Pod) string { return pod.Namespace + "/" + pod.Name }

// load runs what the files say now. It comes before the runner is told that it
// knows all pods, so that those of an earlier daemon are adopted.
func (s *statics) load() {
	if s.dir != nil {
		if err := os.MkdirAll(s.dir.Path, 0o700); err != nil {
			s.a.log.Warn("manifests directory cannot be made", "error", err)
		}
		s.want(s.dir.Load())
	}
}

// run follows the directory and keeps the mirrors until ctx ends.
func (s *statics) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if s.dir != nil {
		wg.Go(func() { _ = s.dir.Run(ctx, s.want) })
	}
	failures := 0
	for {
		var again <-chan time.Time
		if err := s.mirror(ctx); err != nil && ctx.Err() == nil {
			s.a.log.Warn("mirror pods could not all be written, will retry", "error", err)
			again = time.After(min(mirrorRetry<<min(failures, 10), mirrorRetryMax))
			failures++
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-again:
		}
	}
}

func (s *statics) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// want takes what the files say.
func (s *statics) want(pods []*v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = make(map[string]*v1.Pod, len(pods))
	for _, pod := range pods {
		s.wanted[nameOf(pod)] = pod
	}
	for name, pod := range s.running {
		if now := s.wanted[name]; now == nil || now.UID != pod.UID {
			s.a.runner.Remove(pod.UID)
		}
	}
	for name := range s.wanted {
		s.begin(name)
	}
	s.poke()
}

// begin runs a wanted pod unless one of its name still runs. mu is held.
func (s *statics) begin(name string) {
	pod := s.wanted[name]
	if pod == nil || s.running[name] != nil {
		return
	}
	s.running[name] = pod
	s.a.pods.put(pod)
	s.a.metrics.sawPod(pod)
	s.a.runner.Set(pod)
}

// owns reports whether a pod came from a file of this host, and not from the API,
// whatever its annotations say.
func (s *statics) owns(pod *v1.Pod) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.running[nameOf(pod)]
	return now != nil && now.UID == pod.UID
}

// gone takes from the runner that nothing is left of a static pod, and runs
// the one that waits for its name.
func (s *statics) gone(pod *v1.Pod) {
	s.a.pods.drop(pod)
	s.a.metrics.forget(pod.UID)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.status, pod.UID)
	if now := s.running[nameOf(pod)]; now != nil && now.UID == pod.UID {
		delete(s.running, nameOf(pod))
	}
	s.begin(nameOf(pod))
	s.poke()
}

// put shows a static pod's status on its mirror.
func (s *statics) put(pod *v1.Pod, status v1.PodStatus) {
	s.mu.Lock()
	s.status[pod.UID] = status
	mirror := s.mirrors[nameOf(pod)]
	s.mu.Unlock()
	if mirrors(mirror, pod) {
		s.a.status.put(mirror, status)
	}
}

func mirrors(mirror, pod *v1.Pod) bool {
	return mirror != nil && mirror.DeletionTimestamp == nil && mirror.Annotations[kubetypes.ConfigMirrorAnnotationKey] == pod.Annotations[kubetypes.ConfigHashAnnotationKey]
}

// observe takes a mirror pod as the API has it.
func (s *statics) observe(mirror *v1.Pod) {
	s.a.status.observe(mirror)
	name := nameOf(mirror)
	s.mu.Lock()
	before := s.mirrors[name]
	s.mirrors[name] = mirror
	pod := s.running[name]
	var status v1.PodStatus
	known := false
	if pod != nil {
		status, known = s.status[pod.UID]
	}
	s.mu.Unlock()
	if known && (before == nil || before.UID != mirror.UID) && mirrors(mirror, pod) {
		s.a.status.put(mirror, status)
	}
	s.poke()
}

// forget takes that a mirror pod is no more.
func (s *statics) forget(mirror *v1.Pod) {
	s.a.status.forget(mirror.UID)
	s.mu.Lock()
	if now := s.mirrors[nameOf(mirror)]; now != nil && now.UID == mirror.UID {
		delete(s.mirrors, nameOf(mirror))
	}
	s.mu.Unlock()
	s.poke()
}

// allKnown is told once all mirror pods that the API has were observed.
func (s *statics) allKnown() {
	s.mu.Lock()
	s.synced = true
	s.mu.Unlock()
	s.poke()
}

// mirror makes the API's mirror pods what they should be.
func (s *statics) mirror(ctx context.Context) error {
	s.mu.Lock()
	if !s.synced {
		s.mu.Unlock()
		return nil
	}
	var drop, create []*v1.Pod
	for name, m := range s.mirrors {
		if pod := s.running[name]; pod == nil || !mirrors(m, pod) {
			drop = append(drop, m)
		}
	}
	for name, pod := range s.running {
		if now := s.wanted[name]; s.mirrors[name] == nil && now != nil && now.UID == pod.UID {
			create = append(create, pod)
		}
	}
	s.mu.Unlock()
	var failed []error // one that cannot be written keeps no other from it
	for _, m := range drop {
		if err := s.a.status.remove(ctx, m); err != nil {
			failed = append(failed, fmt.Errorf("delete mirror pod %s: %w", nameOf(m), err))
		}
	}
	for _, pod := range create {
		if err := s.create(ctx, pod); err != nil {
			failed = append(failed, fmt.Errorf("create mirror pod %s: %w", nameOf(pod), err))
		}
	}
	return errors.Join(failed...)
}

// create makes a mirror, owned by this host's Node (KEP-1314).
func (s *statics) create(ctx context.Context, pod *v1.Pod) error {
	node, err := s.a.kube.CoreV1().Nodes().Get(ctx, s.a.o.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	controller := true
	m := pod.DeepCopy()
	m.UID, m.Status = "", v1.PodStatus{Phase: v1.PodPending}
	m.Annotations[kubetypes.ConfigMirrorAnnotationKey] = pod.Annotations[kubetypes.ConfigHashAnnotationKey]
	m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &controller}}
	_, err = s.a.kube.CoreV1().Pods(m.Namespace).Create(ctx, m, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		live, getErr := s.a.kube.CoreV1().Pods(m.Namespace).Get(ctx, m.Name, metav1.GetOptions{})
		if getErr == nil && mirrors(live, pod) {
			return nil
		}
	}
	return err
}
