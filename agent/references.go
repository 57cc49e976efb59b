package agent

import (
	"context"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// references watches the config maps and secrets that pods here have as
// volumes, each object once, and tells which pods to renew. Whoever has many
// pods of one workload has one watch for all of them. What a pod has in its
// environment is read once, so it is watched only for a pod that waits for it.
type references struct {
	kube    kubernetes.Interface
	changed func(types.UID)

	mu      sync.Mutex
	ctx     context.Context            // of run; nil before; guarded by mu
	objects map[objectKey]*objectWatch // guarded by mu
	pods    map[types.UID][]objectKey  // guarded by mu
	wg      sync.WaitGroup
}

type objectKey struct{ resource, namespace, name string }

type objectWatch struct {
	pods   map[types.UID]bool
	cancel context.CancelFunc
	// awaited says that it was missing: it may have come before the watch.
	awaited bool
}

func newReferences(kube kubernetes.Interface, changed func(types.UID)) *references {
	return &references{kube: kube, changed: changed, objects: map[objectKey]*objectWatch{}, pods: map[types.UID][]objectKey{}}
}

// run lets watches go on until ctx ends.
func (r *references) run(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	for key, o := range r.objects {
		r.begin(key, o)
	}
	r.mu.Unlock()
	<-ctx.Done()
	r.wg.Wait()
	return nil
}

// set notes what a pod refers to; a pod's volumes never change.
func (r *references) set(pod *v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.pods[pod.UID]; known || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return
	}
	r.follow(pod.UID, referencesOf(pod), false)
}

// await watches what the pod has in its environment too: something of it is
// missing.
func (r *references) await(pod *v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.follow(pod.UID, environmentOf(pod), true)
}

// follow is called with mu held. It leaves out what the pod follows already.
func (r *references) follow(uid types.UID, keys []objectKey, awaited bool) {
	for _, key := range keys {
		if slices.Contains(r.pods[uid], key) {
			continue
		}
		r.pods[uid] = append(r.pods[uid], key)
		o := r.objects[key]
		if o == nil {
			o = &objectWatch{pods: map[types.UID]bool{}, awaited: awaited}
			r.objects[key] = o
			r.begin(key, o)
		}
		o.pods[uid] = true
	}
	if r.pods[uid] == nil {
		r.pods[uid] = []objectKey{}
	}
}

// drop forgets a pod, and ends the watches only it needed.
func (r *references) drop(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range r.pods[uid] {
		o := r.objects[key]
		if o == nil {
			continue
		}
		delete(o.pods, uid)
		if len(o.pods) == 0 {
			delete(r.objects, key)
			if o.cancel != nil {
				o.cancel()
			}
		}
	}
	delete(r.pods, uid)
}

// begin starts an object's watch, unless run has not begun or has ended. It
// is called with mu held.
func (r *references) begin(key objectKey, o *objectWatch) {
	if r.ctx == nil || r.ctx.Err() != nil || o.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	o.cancel = cancel
	var kind runtime.Object = &v1.ConfigMap{}
	if key.resource == "secrets" {
		kind = &v1.Secret{}
	}
	lw := cache.NewListWatchFromClient(r.kube.CoreV1().RESTClient(), key.resource, key.namespace, fields.OneTermEqualSelector("metadata.name", key.name))
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: kind,
		Handler: cache.ResourceEventHandlerDetailedFuncs{
			AddFunc: func(_ any, first bool) {
				if !first || o.awaited {
					r.tell(key)
				}
			},
			UpdateFunc: func(_, _ any) { r.tell(key) },
		},
	})
	r.wg.Go(func() { informer.RunWithContext(ctx) })
}

func (r *references) tell(key objectKey) {
	r.mu.Lock()
	var uids []types.UID
	if o := r.objects[key]; o != nil {
		for uid := range o.pods {
			uids = append(uids, uid)
		}
	}
	r.mu.Unlock()
	for _, uid := range uids {
		r.changed(uid)
	}
}

// referencesOf lists each object the pod's volumes are filled from, once.
func referencesOf(pod *v1.Pod) []objectKey {
	var out []objectKey
	seen := map[objectKey]bool{}
	add := func(resource, name string) {
		key := objectKey{resource, pod.Namespace, name}
		if !seen[key] {
			seen[key] = true
			out = append(out, key)
		}
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			add("configmaps", v.ConfigMap.Name)
		case v.Secret != nil:
			add("secrets", v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add("configmaps", s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add("secrets", s.Secret.Name)
				}
			}
		}
	}
	return out
}

// environmentOf lists the objects that the environment of the pod's containers
// is made of.
func environmentOf(pod *v1.Pod) []objectKey {
	var out []objectKey
	add := func(resource, name string) {
		if key := (objectKey{resource, pod.Namespace, name}); !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	for c := range podutil.ContainerIter(&pod.Spec, podutil.AllContainers) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				add("configmaps", from.ConfigMapRef.Name)
			}
			if from.SecretRef != nil {
				add("secrets", from.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom == nil {
				continue
			}
			if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
				add("configmaps", ref.Name)
			}
			if ref := e.ValueFrom.SecretKeyRef; ref != nil {
				add("secrets", ref.Name)
			}
		}
	}
	return out
}
