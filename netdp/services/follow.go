package services

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Followed knows services and their endpoints, for whoever acts on changes of
// either.
type Followed struct {
	services corelisters.ServiceLister
	slices   cache.Indexer
	handlers []cache.ResourceEventHandlerRegistration
}

// Follow calls changed with the NAMESPACE/NAME of each service that changed, by
// itself or by one of its slices; changed must not block.
func Follow(factory informers.SharedInformerFactory, changed func(service string)) (*Followed, error) {
	svcs, slices := factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices().Informer()
	if err := IndexSlices(slices); err != nil {
		return nil, err
	}
	f := &Followed{services: svcs.Lister(), slices: slices.GetIndexer()}
	for informer, keysOf := range map[cache.SharedIndexInformer]func(any) ([]string, error){
		svcs.Informer(): func(obj any) ([]string, error) {
			key, err := cache.MetaNamespaceKeyFunc(obj)
			return []string{key}, err
		},
		slices: sliceService,
	} {
		tell := func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			keys, err := keysOf(obj)
			if err != nil {
				return // it is none of these kinds
			}
			for _, key := range keys {
				changed(key)
			}
		}
		h, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: tell, UpdateFunc: func(old, obj any) { tell(old); tell(obj) }, DeleteFunc: tell,
		})
		if err != nil {
			return nil, fmt.Errorf("follow services and endpoint slices: %w", err)
		}
		f.handlers = append(f.handlers, h)
	}
	return f, nil
}

// HasSynced reports whether changed was called for all there was at first.
func (f *Followed) HasSynced() bool {
	for _, h := range f.handlers {
		if !h.HasSynced() {
			return false
		}
	}
	return true
}

// Service is the one of that NAMESPACE/NAME, nil without one.
func (f *Followed) Service(name string) *corev1.Service {
	namespace, base, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil
	}
	svc, err := f.services.Services(namespace).Get(base)
	if err != nil {
		return nil
	}
	return svc
}

// Lister lists all services.
func (f *Followed) Lister() corelisters.ServiceLister { return f.services }

// Slices are those of the service.
func (f *Followed) Slices(name string) []*discoveryv1.EndpointSlice {
	objs, err := f.slices.ByIndex(ByService, name)
	if err != nil {
		return nil // there is that index
	}
	var out []*discoveryv1.EndpointSlice
	for _, obj := range objs {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			out = append(out, s)
		}
	}
	return out
}

// Keys are those under which the datapath has a service's ports.
func Keys(svc *corev1.Service) []string {
	var keys []string
	for _, s := range Translate(svc, nil, Place{}) {
		keys = append(keys, s.Key)
	}
	return keys
}
