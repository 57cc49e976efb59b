package loadbalancer

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"shoal/api/loadbalancer/v1alpha1"
)

// poolWatch knows the pools there are.
type poolWatch struct {
	objects  dynamic.Interface
	informer informers.GenericInformer
	changed  func(name string)

	mu    sync.Mutex
	pools []Pool           // sorted; replaced, never changed; guarded by mu
	wrong map[string]error // what could not be read of a pool; guarded by mu
}

func newPoolWatch(objects dynamic.Interface, changed func(name string)) *poolWatch {
	w := &poolWatch{objects: objects, changed: changed, wrong: map[string]error{}}
	w.informer = dynamicinformer.NewFilteredDynamicInformer(objects, v1alpha1.Pools, metav1.NamespaceAll, 0, cache.Indexers{}, nil)
	return w
}

// run follows the pools until ctx ends. While the kind is not known to the API
// server yet, the informer tries again.
func (w *poolWatch) run(ctx context.Context) {
	_, err := w.informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: w.read, UpdateFunc: func(old, obj any) {
			before, ok := old.(*unstructured.Unstructured)
			if after, is := obj.(*unstructured.Unstructured); ok && is && before.GetGeneration() == after.GetGeneration() && before.GetUID() == after.GetUID() {
				return // its status
			}
			w.read(obj)
		}, DeleteFunc: w.read,
	})
	if err != nil {
		return // only after the informer was stopped
	}
	w.informer.Informer().RunWithContext(ctx)
}

func (w *poolWatch) await(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), w.informer.Informer().HasSynced)
}

// read reads all pools anew; they are few.
func (w *poolWatch) read(changed any) {
	var pools []Pool
	wrong := map[string]error{}
	for _, obj := range w.informer.Informer().GetStore().List() {
		o, err := decode(obj)
		if err != nil {
			continue // the schema does not let that in
		}
		p, err := NewPool(o)
		if err != nil {
			wrong[o.Name] = err
		}
		pools = append(pools, p)
	}
	sortPools(pools)
	w.mu.Lock()
	w.pools, w.wrong = pools, wrong
	w.mu.Unlock()
	name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(changed)
	if err == nil {
		w.changed(name)
	}
}

func decode(obj any) (*v1alpha1.AddressPool, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("read an AddressPool: it is a %T", obj)
	}
	o := &v1alpha1.AddressPool{}
	return o, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o)
}

func (w *poolWatch) all() []Pool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pools
}

func (w *poolWatch) problem(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrong[name]
}

// count writes how many addresses of a pool services have.
func (c *Controller) count(ctx context.Context, name string) error {
	obj, ok, err := c.pools.informer.Informer().GetStore().GetByKey(name)
	if err != nil || !ok {
		return err
	}
	o, err := decode(obj)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(c.pools.all(), func(p Pool) bool { return p.Name == name })
	if i < 0 {
		return nil // it is being read
	}
	before := o.Status
	before.Conditions = slices.Clone(before.Conditions)
	c.statusOf(o, c.pools.all()[i])
	if sameStatus(before, o.Status) || !c.chosen(key{pool: name}) {
		return nil
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return fmt.Errorf("write the status of AddressPool %s: %w", name, err)
	}
	u := &unstructured.Unstructured{Object: fields}
	u.SetGroupVersionKind(v1alpha1.Pools.GroupVersion().WithKind("AddressPool"))
	if _, err := c.o.Objects.Resource(v1alpha1.Pools).UpdateStatus(ctx, u, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of AddressPool %s: %w", name, err)
	}
	return nil
}

func (c *Controller) statusOf(o *v1alpha1.AddressPool, p Pool) {
	var total uint64
	usable := p.outside(c.o.Ranges)
	for _, r := range usable.Ranges {
		total += r.Size()
	}
	o.Status.Assigned = 0
	claims := c.o.Claims.All()
	for a := range claims {
		if usable.contains(a) {
			o.Status.Assigned++
		}
	}
	o.Status.Free = int64(min(total, math.MaxInt64)) - o.Status.Assigned
	for a := range c.hosts() {
		if _, claimed := claims[a]; !claimed && usable.contains(a) {
			o.Status.Free--
		}
	}
	said := metav1.Condition{Type: v1alpha1.Usable, Status: metav1.ConditionTrue, Reason: "Read", ObservedGeneration: o.Generation}
	if overlap := p.overlaps(c.o.Ranges); overlap != "" {
		said.Status, said.Reason, said.Message = metav1.ConditionFalse, "InCellRange", overlap
	}
	if err := c.pools.problem(p.Name); err != nil {
		said.Status, said.Reason, said.Message = metav1.ConditionFalse, "NotAllRead", strings.TrimSpace(err.Error()+"\n"+said.Message)
	}
	meta.SetStatusCondition(&o.Status.Conditions, said)
}

func sameStatus(a, b v1alpha1.AddressPoolStatus) bool {
	return a.Assigned == b.Assigned && a.Free == b.Free && slices.EqualFunc(a.Conditions, b.Conditions, func(x, y metav1.Condition) bool {
		return x.Type == y.Type && x.Status == y.Status && x.Message == y.Message && x.ObservedGeneration == y.ObservedGeneration
	})
}
