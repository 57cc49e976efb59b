package controllers

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
)

// StripManagedFields is a transform for informers: nothing in this process reads
// who wrote which field, and that is often half of an object.
func StripManagedFields(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil && accessor.GetManagedFields() != nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

// uncollected are kinds the garbage collector does not watch: events, which end
// by themselves, and kinds of the cluster's own configuration, which neither
// own nor are owned and of which each watch would cost memory for nothing.
func uncollected() map[schema.GroupResource]struct{} {
	ignored := map[schema.GroupResource]struct{}{}
	for resource := range garbagecollector.DefaultIgnoredResources() {
		ignored[resource] = struct{}{}
	}
	for _, resource := range []schema.GroupResource{
		{Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas"},
		{Group: "flowcontrol.apiserver.k8s.io", Resource: "prioritylevelconfigurations"},
		{Group: "scheduling.k8s.io", Resource: "priorityclasses"},
		{Group: "node.k8s.io", Resource: "runtimeclasses"},
	} {
		ignored[resource] = struct{}{}
	}
	return ignored
}

// sharedInformers gives upstream's generic loops an informer of any kind: the
// one that holds whole objects where the daemon has it anyway, and one that
// holds only metadata where it has not.
type sharedInformers struct {
	typed  informers.SharedInformerFactory
	light  metadatainformer.SharedInformerFactory
	mapper meta.RESTMapper
}

func newSharedInformers(typed informers.SharedInformerFactory, client metadata.Interface, mapper meta.RESTMapper) *sharedInformers {
	return &sharedInformers{
		typed:  typed,
		light:  metadatainformer.NewSharedInformerFactoryWithOptions(client, 0, metadatainformer.WithTransform(StripManagedFields)),
		mapper: mapper,
	}
}

// ForResource implements informerfactory.InformerFactory.
func (s *sharedInformers) ForResource(resource schema.GroupVersionResource) (informers.GenericInformer, error) {
	if s.heldWhole(resource) {
		return s.typed.ForResource(resource)
	}
	return s.light.ForResource(resource), nil
}

// countedWhole are the kinds of which the quota controller's filter of updates
// reads more than metadata, whether their informers run already or, as on a peer
// that has just begun to lead, do not.
var countedWhole = map[schema.GroupResource]bool{
	{Resource: "pods"}: true, {Resource: "services"}: true, {Resource: "persistentvolumeclaims"}: true,
}

// heldWhole is true for a kind whose typed informer runs already, or has to.
func (s *sharedInformers) heldWhole(resource schema.GroupVersionResource) bool {
	if countedWhole[resource.GroupResource()] {
		return true
	}
	kind, err := s.mapper.KindFor(resource)
	if err != nil {
		return false
	}
	object, err := scheme.Scheme.New(kind)
	if err != nil {
		return false
	}
	over := make(chan struct{})
	close(over) // ask which run, without waiting for them
	_, runs := s.typed.WaitForCacheSync(over)[reflect.TypeOf(object)]
	return runs
}

// Start implements informerfactory.InformerFactory.
func (s *sharedInformers) Start(stop <-chan struct{}) {
	s.typed.Start(stop)
	s.light.Start(stop)
}

func (s *sharedInformers) shutdown() { s.light.Shutdown() }

// discoverySettles is how long after a change of the kinds discovery may still
// show the old ones: the API server publishes them with a delay.
const discoverySettles = 30 * time.Second

// cachedDiscovery remembers what kinds the API server has. It is asked again
// only after a CustomResourceDefinition or an APIService changed.
type cachedDiscovery struct {
	discovery.DiscoveryInterface
	mapping *restmapper.DeferredDiscoveryRESTMapper

	mu     sync.Mutex
	askTil time.Time                 // guarded by mu; before it the memory is not trusted
	lists  []*metav1.APIResourceList // guarded by mu; nil when there is no memory
}

func newCachedDiscovery(client discovery.DiscoveryInterface) *cachedDiscovery {
	return &cachedDiscovery{
		DiscoveryInterface: client,
		mapping:            restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client)),
	}
}

func (d *cachedDiscovery) mapper() meta.ResettableRESTMapper { return d.mapping }

// follow watches what adds and removes kinds.
func (d *cachedDiscovery) follow(shared *sharedInformers) error {
	expire := func(any) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.askTil = time.Now().Add(discoverySettles)
	}
	for _, resource := range []schema.GroupVersionResource{
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
		{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"},
	} {
		_, err := shared.light.ForResource(resource).Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: expire, DeleteFunc: expire, UpdateFunc: func(_, now any) { expire(now) },
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ServerPreferredResources answers from memory. A partial answer is given but
// not kept.
func (d *cachedDiscovery) ServerPreferredResources() ([]*metav1.APIResourceList, error) {
	d.mu.Lock()
	lists, trusted := d.lists, !time.Now().Before(d.askTil)
	d.mu.Unlock()
	if lists != nil && trusted {
		return lists, nil
	}
	lists, err := d.DiscoveryInterface.ServerPreferredResources()
	if err != nil {
		return lists, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lists = lists
	return lists, nil
}

// ServerPreferredNamespacedResources picks from ServerPreferredResources.
func (d *cachedDiscovery) ServerPreferredNamespacedResources() ([]*metav1.APIResourceList, error) {
	lists, err := d.ServerPreferredResources()
	return discovery.FilteredBy(discovery.ResourcePredicateFunc(func(_ string, r *metav1.APIResource) bool {
		return r.Namespaced
	}), lists), err
}

// upstreamLogger turns upstream's notes on its own comings and goings into
// debug messages; its errors stay errors.
func upstreamLogger(log *slog.Logger) klog.Logger {
	return logr.FromSlogHandler(demoted{log.Handler()})
}

type demoted struct{ slog.Handler }

const demotion = slog.LevelInfo - slog.LevelDebug

func (d demoted) Enabled(ctx context.Context, level slog.Level) bool {
	return d.Handler.Enabled(ctx, d.lower(level))
}

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = d.lower(r.Level)
	return d.Handler.Handle(ctx, r)
}

func (d demoted) lower(level slog.Level) slog.Level {
	if level >= slog.LevelWarn {
		return level
	}
	return level - demotion
}

func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }
