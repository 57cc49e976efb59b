package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/utils/clock"
)

const (
	// replicaSetWorkers is how many ReplicaSets are worked on at once.
	replicaSetWorkers = 4
	// firstBatch is how many pods are created before the first answer is
	// awaited; it doubles with every batch that succeeds, so that a refusal
	// (quota, admission) is met a few times and not five hundred times.
	firstBatch = 4
	// maxParallelWrites bounds one ReplicaSet's writes under way.
	maxParallelWrites = 64

	ownerIndex = "shoalReplicaSetOwner"
)

var replicaSetKind = apps.SchemeGroupVersion.WithKind("ReplicaSet")

// replicaSets keeps the number of pods of every ReplicaSet. It differs from
// upstream's in the names it gives (see podName): with those, two leaders make
// the same pods. What it shows and in which order it deletes is upstream's.
type replicaSets struct {
	client   kubernetes.Interface
	log      *slog.Logger
	clock    clock.WithTicker
	pods     cache.Indexer
	sets     appslisters.ReplicaSetLister
	setIndex cache.Indexer
	synced   []cache.InformerSynced
	pending  *pendingWrites
	keys     *keyedWork
	events   record.EventBroadcaster
	recorder record.EventRecorder
	control  controller.PodControlInterface // adopts and releases
}

func newReplicaSets(client kubernetes.Interface, factory informers.SharedInformerFactory, log *slog.Logger, c clock.WithTicker) (*replicaSets, error) {
	r := &replicaSets{client: client, log: log, clock: c, pending: newPendingWrites(), events: record.NewBroadcaster()}
	r.recorder = r.events.NewRecorder(scheme.Scheme, v1.EventSource{Component: "replicaset-controller"})
	r.control = controller.RealPodControl{KubeClient: client, Recorder: r.recorder}
	r.keys = newKeyedWork("replicaset", log, r.sync)

	sets := factory.Apps().V1().ReplicaSets()
	pods := factory.Core().V1().Pods()
	if err := sets.Informer().AddIndexers(cache.Indexers{ownerIndex: indexByOwner}); err != nil {
		return nil, fmt.Errorf("index replica sets: %w", err)
	}
	if err := controller.AddPodControllerIndexer(pods.Informer()); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	r.pods, r.sets, r.setIndex = pods.Informer().GetIndexer(), sets.Lister(), sets.Informer().GetIndexer()
	return r, errors.Join(
		r.on(sets.Informer(), handlers(r.setChanged, r.setGone)),
		r.on(pods.Informer(), handlers(r.podChanged, r.podGone)),
	)
}

func indexByOwner(object any) ([]string, error) {
	set, ok := object.(*apps.ReplicaSet)
	if !ok {
		return nil, nil
	}
	if ref := metav1.GetControllerOfNoCopy(set); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return nil, nil
}

func (r *replicaSets) on(informer cache.SharedIndexInformer, h cache.ResourceEventHandler) error {
	registration, err := informer.AddEventHandler(h)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	r.synced = append(r.synced, registration.HasSynced)
	return nil
}

// handlers adapts typed functions; a replaced object is shown as gone first.
func handlers[P metav1.Object](changed func(before, now P), gone func(P)) cache.ResourceEventHandler {
	var none P
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { changed(none, object.(P)) },
		UpdateFunc: func(old, object any) {
			before, now := old.(P), object.(P)
			if before.GetUID() != now.GetUID() {
				gone(before)
				before = none
			}
			changed(before, now)
		},
		DeleteFunc: func(object any) {
			if lost, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = lost.Obj
			}
			if typed, ok := object.(P); ok {
				gone(typed)
			}
		},
	}
}

// Run works until the context ends.
func (r *replicaSets) Run(ctx context.Context) error {
	r.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: r.client.CoreV1().Events("")})
	defer r.events.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), r.synced...) {
		return nil
	}
	return r.keys.run(ctx, replicaSetWorkers)
}

func (r *replicaSets) setChanged(_, now *apps.ReplicaSet) {
	r.pending.know(now)
	r.enqueue(now)
}

func (r *replicaSets) setGone(set *apps.ReplicaSet) { r.pending.forget(set.UID) }

func (r *replicaSets) podChanged(before, now *v1.Pod) {
	if before != nil && before.ResourceVersion == now.ResourceVersion {
		return
	}
	r.pending.observe(now, false)
	if before != nil {
		r.enqueueOwner(before)
	}
	r.enqueueOwner(now)
}

func (r *replicaSets) podGone(pod *v1.Pod) {
	r.pending.observe(pod, true)
	r.enqueueOwner(pod)
}

// enqueueOwner wakes the ReplicaSet a pod belongs to, or those that might adopt
// it.
func (r *replicaSets) enqueueOwner(pod *v1.Pod) {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if ref.Kind == replicaSetKind.Kind {
			r.keys.queue.Add(pod.Namespace + "/" + ref.Name)
		}
		return
	}
	sets, err := r.sets.GetPodReplicaSets(pod)
	if err != nil {
		return // none selects it
	}
	for _, set := range sets {
		r.enqueue(set)
	}
}

func (r *replicaSets) enqueue(set *apps.ReplicaSet) {
	r.keys.queue.Add(set.Namespace + "/" + set.Name)
}

// sync makes one pass over a ReplicaSet.
func (r *replicaSets) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return fmt.Errorf("parse key: %w", err)
	}
	set, err := r.sets.ReplicaSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up: %w", err)
	}
	settled := r.pending.settled(set.UID, r.clock.Now())
	seen, err := r.look(ctx, set)
	if err != nil {
		return err
	}
	var failed error
	if settled {
		failed = r.act(ctx, seen)
	}
	if err := r.writeStatus(ctx, seen, statusOf(seen, failed)); err != nil {
		return errors.Join(failed, err)
	}
	r.revisit(key, seen)
	return failed
}

// look gathers what planReplicas decides on; it adopts and releases pods.
func (r *replicaSets) look(ctx context.Context, set *apps.ReplicaSet) (sight, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return sight{}, fmt.Errorf("parse spec.selector: %w", err)
	}
	all, err := controller.FilterPodsByOwner(r.pods, &set.ObjectMeta, replicaSetKind.Kind, true)
	if err != nil {
		return sight{}, fmt.Errorf("list pods: %w", err)
	}
	s := sight{set: set, now: r.clock.Now()}
	var active []*v1.Pod
	for _, pod := range all {
		if controller.IsPodActive(pod) {
			active = append(active, pod)
		}
		if metav1.IsControlledBy(pod, set) {
			s.owned = append(s.owned, pod)
		}
	}
	s.known = r.pending.numbers(set, s.owned)
	s.terminating = controller.FilterClaimedPods(set, selector, controller.FilterTerminatingPods(all))
	claims := controller.NewPodControllerRefManager(r.control, set, selector, replicaSetKind, controller.RecheckDeletionTimestamp(r.fresh(set)))
	if s.active, err = claims.ClaimPods(ctx, active); err != nil {
		return sight{}, fmt.Errorf("claim pods: %w", err)
	}
	if len(s.active) > int(*set.Spec.Replicas) {
		s.related = r.relatedPods(set)
	}
	return s, nil
}

// fresh reads a ReplicaSet past the cache, before it adopts.
func (r *replicaSets) fresh(set *apps.ReplicaSet) func(context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) {
		now, err := r.client.AppsV1().ReplicaSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		if now.UID != set.UID {
			return nil, fmt.Errorf("replica set %s/%s was replaced by another of its name", set.Namespace, set.Name)
		}
		return now, nil
	}
}

// relatedPods are the active pods of all ReplicaSets of the same Deployment.
func (r *replicaSets) relatedPods(set *apps.ReplicaSet) []*v1.Pod {
	siblings := []any{set}
	if ref := metav1.GetControllerOfNoCopy(set); ref != nil {
		if found, err := r.setIndex.ByIndex(ownerIndex, string(ref.UID)); err == nil {
			siblings = found
		}
	}
	var related []*v1.Pod
	for _, sibling := range siblings {
		pods, err := controller.FilterPodsByOwner(r.pods, &sibling.(*apps.ReplicaSet).ObjectMeta, replicaSetKind.Kind, false)
		if err == nil {
			related = append(related, controller.FilterActivePods(quiet, pods)...)
		}
	}
	return related
}

// revisit plans a pass for when a ready pod becomes available.
func (r *replicaSets) revisit(key string, s sight) {
	if s.set.Spec.MinReadySeconds <= 0 {
		return
	}
	if wait := controller.FindMinNextPodAvailabilityCheck(s.active, s.set.Spec.MinReadySeconds, s.now, r.clock); wait != nil {
		r.keys.queue.AddAfter(key, *wait)
	}
}

// writeStatus writes a status that changed. A conflict means the cache is
// behind; the event that brings it up to date starts the next pass.
func (r *replicaSets) writeStatus(ctx context.Context, s sight, status apps.ReplicaSetStatus) error {
	if apiequality.Semantic.DeepEqual(s.set.Status, status) {
		return nil
	}
	update := &apps.ReplicaSet{TypeMeta: s.set.TypeMeta, ObjectMeta: *s.set.ObjectMeta.DeepCopy(), Spec: s.set.Spec, Status: status}
	_, err := r.client.AppsV1().ReplicaSets(s.set.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		r.keys.queue.AddAfter(s.set.Namespace+"/"+s.set.Name, conflictPause)
		return nil
	}
	return fmt.Errorf("write status: %w", err)
}

// conflictPause is longer than an event takes to arrive.
const conflictPause = 20 * time.Millisecond

// act carries a plan out.
func (r *replicaSets) act(ctx context.Context, s sight) error {
	todo := planReplicas(s)
	if len(todo.create)+len(todo.remove) == 0 {
		return nil
	}
	if len(todo.create) > 0 {
		r.pending.expect(s.set.UID, todo, s.now)
		return r.createAll(ctx, s, todo.create)
	}
	if current, err := r.isCurrent(ctx, s.set); err != nil || !current {
		return err // the event that brings the cache up to date starts the next pass
	}
	r.pending.expect(s.set.UID, todo, s.now)
	var deletes errgroup.Group
	deletes.SetLimit(maxParallelWrites)
	for _, pod := range todo.remove {
		deletes.Go(func() error { return r.remove(ctx, s.set, pod) })
	}
	return deletes.Wait()
}

// isCurrent reads a ReplicaSet past the cache. Pods and ReplicaSets arrive on
// watches of their own, so a second leader may see the pods of a scale-up before
// the scale-up itself; deleting these would be wrong, unlike creating, which is
// the same done twice.
func (r *replicaSets) isCurrent(ctx context.Context, set *apps.ReplicaSet) (bool, error) {
	now, err := r.client.AppsV1().ReplicaSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read before deleting pods: %w", err)
	}
	return now.UID == set.UID && now.Generation == set.Generation, nil
}

// createAll creates in growing batches and gives up after a batch with an
// error.
func (r *replicaSets) createAll(ctx context.Context, s sight, names []string) error {
	for size := firstBatch; len(names) > 0; size *= 2 {
		batch := names[:min(size, len(names))]
		names = names[len(batch):]
		var creates errgroup.Group
		creates.SetLimit(maxParallelWrites)
		for _, name := range batch {
			creates.Go(func() error { return r.create(ctx, s.set, name) })
		}
		if err := creates.Wait(); err != nil {
			for _, name := range names {
				r.pending.created(s.set.UID, name)
			}
			return err
		}
	}
	return nil
}

func (r *replicaSets) create(ctx context.Context, set *apps.ReplicaSet, name string) error {
	pod, err := controller.GetPodFromTemplate(&set.Spec.Template, set, metav1.NewControllerRef(set, replicaSetKind))
	if err != nil {
		r.pending.created(set.UID, name)
		return fmt.Errorf("make pod %s: %w", name, err)
	}
	pod.Name = name
	_, err = r.client.CoreV1().Pods(set.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	switch {
	case err == nil:
		r.recorder.Eventf(set, v1.EventTypeNormal, controller.SuccessfulCreatePodReason, "Created pod: %v", name)
		return nil
	case apierrors.IsAlreadyExists(err):
		return r.alreadyThere(ctx, set, name)
	}
	r.pending.created(set.UID, name)
	if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
		return nil // nothing can be created there any more, and that is as it should be
	}
	r.recorder.Eventf(set, v1.EventTypeWarning, controller.FailedCreatePodReason, "Error creating: %v", err)
	return fmt.Errorf("create pod %s: %w", name, err)
}

// alreadyThere handles a name that is taken. The usual taker is another leader
// that made the very pod this one wanted; then there is nothing to do but see
// it. Otherwise the number counts as used and the next pass takes another.
func (r *replicaSets) alreadyThere(ctx context.Context, set *apps.ReplicaSet, name string) error {
	pod, err := r.client.CoreV1().Pods(set.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil && metav1.IsControlledBy(pod, set) {
		if _, seen, err := r.pods.GetByKey(set.Namespace + "/" + name); err == nil && seen {
			r.pending.created(set.UID, name)
			r.enqueue(set)
		}
		return nil // its event is on the way and ends the wait
	}
	r.pending.created(set.UID, name)
	r.pending.skip(set, name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("look at pod %s, whose name is taken: %w", name, err)
	}
	r.enqueue(set)
	return nil
}

func (r *replicaSets) remove(ctx context.Context, set *apps.ReplicaSet, pod *v1.Pod) error {
	err := r.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err == nil {
		r.recorder.Eventf(set, v1.EventTypeNormal, controller.SuccessfulDeletePodReason, "Deleted pod: %v", pod.Name)
		return nil
	}
	r.pending.deleted(set.UID, pod.UID)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or replaced by another of its name
		return nil
	}
	r.recorder.Eventf(set, v1.EventTypeWarning, controller.FailedDeletePodReason, "Error deleting: %v", err)
	return fmt.Errorf("delete pod %s: %w", pod.Name, err)
}
