// Package objects follows the config maps and secrets that pods of this host
// have as volumes, or wait for, tells which pods to renew, and answers for the objects it
// follows without asking the API.
//
// Always true: one object is followed once, however many pods have it; at most
// MaxWatches objects are watched, those beyond are read in turn, each once in
// PollCycle; what is answered from memory is what the API last said to a watch
// that lives, and a pod that was given something else before is told.
//
// The agent calls Set and Drop as pods come and go, and has volumes read
// through it. It follows nothing else.
package objects

import (
	"context"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"shoal/agent/volume"
)

const (
	// MaxWatches bounds open watches: each costs some 30 KB here and as much in
	// the API server.
	MaxWatches = 200
	// PollCycle is how old the content of an object without a watch may be.
	PollCycle = 30 * time.Second
)

// Cache follows objects. It is a volume.Source: what it does not know, it asks
// of the one it was made with.
type Cache struct {
	volume.Source
	// Changed is called for every pod that has a changed object as a volume.
	// It is set before Run.
	Changed func(types.UID)

	kube       kubernetes.Interface
	maxWatches int

	mu       sync.Mutex
	ctx      context.Context     // of Run; nil before; guarded by mu
	objects  map[key]*object     // guarded by mu
	pods     map[types.UID][]key // guarded by mu
	watching int                 // objects with a watch; guarded by mu
	polling  bool                // a poller runs; guarded by mu
	wg       sync.WaitGroup
}

type resource string

const (
	configMaps resource = "configmaps"
	secrets    resource = "secrets"
)

type key struct {
	resource        resource
	namespace, name string
}

// object is one that pods refer to. All but key is guarded by the cache's mu.
type object struct {
	key     key
	pods    map[types.UID]bool
	cancel  context.CancelFunc // of its watch; nil if it is polled, or not begun
	fresh   bool               // value is what a watch that lives said last
	read    bool               // value was read at least once
	value   metav1.Object      // nil: there is none
	version string             // of value, "" for none
	given   map[string]bool    // versions that pods were given past the cache since it was read
	watched bool               // it takes a place among the watches
}

// New makes a cache that asks source for what it does not follow.
func New(kube kubernetes.Interface, source volume.Source) *Cache {
	return &Cache{
		Source: source, kube: kube, maxWatches: MaxWatches, Changed: func(types.UID) {},
		objects: map[key]*object{}, pods: map[types.UID][]key{},
	}
}

// Run follows objects until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	for _, o := range c.objects {
		c.begin(o)
	}
	c.mu.Unlock()
	<-ctx.Done()
	c.wg.Wait()
	return nil
}

// Set notes what a pod refers to; a pod's volumes never change. One that has
// ended needs nothing any more.
func (c *Cache) Set(pod *v1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		c.drop(pod.UID)
		return
	}
	if _, known := c.pods[pod.UID]; known {
		return
	}
	c.pods[pod.UID] = []key{}
	for _, k := range volumeKeys(pod) {
		c.add(pod.UID, k)
	}
}

// Await follows what the pod has in its environment too, of which something is
// missing. A pod reads that once, so else it is not followed. Changed is called
// when it may be there.
func (c *Cache) Await(pod *v1.Pod) {
	c.mu.Lock()
	came := false
	for _, k := range environmentKeys(pod) {
		if slices.Contains(c.pods[pod.UID], k) {
			continue
		}
		o := c.add(pod.UID, k)
		came = came || o.read && o.version != ""
		if !o.read {
			o.give("")
		}
	}
	c.mu.Unlock()
	if came {
		c.Changed(pod.UID)
	}
}

// add is called with mu held.
func (c *Cache) add(uid types.UID, k key) *object {
	o := c.objects[k]
	if o == nil {
		o = &object{key: k, pods: map[types.UID]bool{}}
		c.objects[k] = o
		c.begin(o)
	}
	o.pods[uid] = true
	c.pods[uid] = append(c.pods[uid], k)
	return o
}

func (o *object) give(version string) {
	if o.given == nil {
		o.given = map[string]bool{}
	}
	o.given[version] = true
}

// Drop forgets a pod, and the objects only it needed.
func (c *Cache) Drop(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(uid)
}

// drop is called with mu held.
func (c *Cache) drop(uid types.UID) {
	for _, k := range c.pods[uid] {
		o := c.objects[k]
		if o == nil {
			continue
		}
		delete(o.pods, uid)
		if len(o.pods) > 0 {
			continue
		}
		delete(c.objects, k)
		if o.cancel != nil {
			o.cancel()
			c.release(o)
		}
	}
	delete(c.pods, uid)
}

// release gives the place of a watch that ended to an object that is polled.
// It is called with mu held.
func (c *Cache) release(o *object) {
	if !o.watched {
		return
	}
	o.watched = false
	c.watching--
	for _, o := range c.objects {
		if o.cancel == nil {
			c.begin(o)
			return
		}
	}
}

// ConfigMap answers from memory if it can.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	return get(c, key{configMaps, namespace, name}, func() (*v1.ConfigMap, error) {
		return c.Source.ConfigMap(ctx, namespace, name)
	})
}

// Secret answers from memory if it can.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	return get(c, key{secrets, namespace, name}, func() (*v1.Secret, error) {
		return c.Source.Secret(ctx, namespace, name)
	})
}

// kinds are the names that errors of the kubelet's own cache have.
var kinds = map[resource]string{configMaps: "configmap", secrets: "secret"}

func get[T metav1.Object](c *Cache, k key, ask func() (T, error)) (T, error) {
	var none T
	notFound := apierrors.NewNotFound(schema.GroupResource{Resource: kinds[k.resource]}, k.name)
	c.mu.Lock()
	o := c.objects[k]
	fresh := o != nil && o.fresh
	var value metav1.Object
	if fresh {
		value = o.value
	}
	c.mu.Unlock()
	if fresh {
		if have, ok := value.(T); ok {
			return have, nil
		}
		return none, notFound
	}
	got, err := ask()
	switch {
	case apierrors.IsNotFound(err):
		c.gave(k, "")
		return none, notFound
	case err == nil:
		c.gave(k, got.GetResourceVersion())
	}
	return got, err
}

// gave notes what a pod was given past the cache: if the next thing read for
// the cache is something else, the pod has missed a change.
func (c *Cache) gave(k key, version string) {
	c.mu.Lock()
	o := c.objects[k]
	missed := o != nil && o.fresh && o.version != version
	if o != nil && !o.fresh {
		o.give(version)
	}
	c.mu.Unlock()
	if missed {
		c.tell(k)
	}
}

func (c *Cache) tell(k key) {
	c.mu.Lock()
	var uids []types.UID
	if o := c.objects[k]; o != nil {
		for uid := range o.pods {
			uids = append(uids, uid)
		}
	}
	c.mu.Unlock()
	for _, uid := range uids {
		c.Changed(uid)
	}
}

// put takes what the API says of an object; nil is that there is none.
func (c *Cache) put(o *object, value metav1.Object, fresh bool) {
	version := ""
	if value != nil {
		version = value.GetResourceVersion()
	}
	c.mu.Lock()
	changed := o.read && o.version != version
	for given := range o.given {
		changed = changed || given != version
	}
	o.value, o.version, o.read, o.fresh, o.given = value, version, true, fresh, nil
	if !fresh {
		o.value = nil // only its version is of use
	}
	c.mu.Unlock()
	if changed {
		c.tell(o.key)
	}
}

func (c *Cache) stale(o *object) {
	c.mu.Lock()
	o.fresh, o.value = false, nil
	c.mu.Unlock()
}
