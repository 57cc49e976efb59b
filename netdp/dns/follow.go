package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"shoal/netdp/dns/records"
	"shoal/netdp/services"
)

// Follower keeps an index equal to the API's objects. It works in the
// goroutines of the informers.
type Follower struct {
	index    *records.Index
	services corelisters.ServiceLister
	slices   cache.Indexer
	followed []followed

	// setting orders what is read of a service and its slices, so that what was
	// read first is also written first.
	setting sync.Mutex
}

type followed struct {
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandlerRegistration
}

// Follow begins with what the informers of factory know; start them after.
func Follow(index *records.Index, factory informers.SharedInformerFactory) (*Follower, error) {
	core, endpoints := factory.Core().V1(), factory.Discovery().V1().EndpointSlices().Informer()
	f := &Follower{index: index, services: core.Services().Lister(), slices: endpoints.GetIndexer()}
	if err := services.IndexSlices(endpoints); err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		informer cache.SharedIndexInformer
		changed  func(old, obj any) // one of them nil for what came or went
	}{
		{core.Namespaces().Informer(), f.namespace},
		{core.Services().Informer(), f.service},
		{endpoints, f.slice},
		{core.Pods().Informer(), f.pod},
	} {
		handler, err := kind.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { kind.changed(nil, obj) },
			UpdateFunc: kind.changed,
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				kind.changed(obj, nil)
			},
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("follow objects for DNS: %w", err), f.Close())
		}
		f.followed = append(f.followed, followed{kind.informer, handler})
	}
	return f, nil
}

// Synced tells whether the index has had everything that existed at the start.
func (f *Follower) Synced() bool {
	return !slices.ContainsFunc(f.followed, func(h followed) bool { return !h.handler.HasSynced() })
}

// Close stops following.
func (f *Follower) Close() error {
	var errs []error
	for _, h := range f.followed {
		errs = append(errs, h.informer.RemoveEventHandler(h.handler))
	}
	f.followed = nil
	return errors.Join(errs...)
}

func (f *Follower) namespace(old, obj any) {
	if ns, ok := obj.(*corev1.Namespace); ok {
		f.index.SetNamespace(ns.Name, true)
	} else if ns, ok := old.(*corev1.Namespace); ok {
		f.index.SetNamespace(ns.Name, false)
	}
}

func (f *Follower) service(old, obj any) {
	if svc, ok := obj.(*corev1.Service); ok {
		f.set(svc.Namespace, svc.Name)
	} else if svc, ok := old.(*corev1.Service); ok {
		f.set(svc.Namespace, svc.Name)
	}
}

func (f *Follower) slice(old, obj any) {
	was, now := serviceOf(old), serviceOf(obj)
	for _, of := range []serviceName{was, now} {
		if of.name != "" {
			f.set(of.namespace, of.name)
		}
		if was == now {
			return
		}
	}
}

type serviceName struct{ namespace, name string }

func serviceOf(obj any) serviceName {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return serviceName{}
	}
	return serviceName{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
}

// set has the index say what is known of a service now.
func (f *Follower) set(namespace, name string) {
	f.setting.Lock()
	defer f.setting.Unlock()
	svc, err := f.services.Services(namespace).Get(name)
	if err != nil { // a lister has no other error than that it is not there
		f.index.DeleteService(namespace, name)
		return
	}
	objs, _ := f.slices.ByIndex(services.ByService, namespace+"/"+name)
	found := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, obj := range objs {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			found = append(found, s)
		}
	}
	f.index.SetService(svc, found)
}

func (f *Follower) pod(old, obj any) {
	from, to := podAddrs(old), podAddrs(obj)
	if slices.Equal(from, to) {
		return
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		pod, _ = old.(*corev1.Pod)
	}
	f.index.MovePod(pod.Namespace, from, to)
}

// podAddrs are a pod's while it has not ended: then another may get them.
func podAddrs(obj any) []netip.Addr {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var out []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, addr.Unmap())
		}
	}
	return out
}
