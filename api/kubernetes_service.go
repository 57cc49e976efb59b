package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"shoal/api/hosts"
)

// publishTimeout bounds one write of this peer's endpoints.
const publishTimeout = 10 * time.Second

// endpoints publishes where this peer serves the API, as an EndpointSlice of
// the `kubernetes` service. Each peer owns one slice, named after itself, so
// that peers never write the same object; others only delete it, when gossip
// calls this host failed. A node hint in it makes the pods of a host use their
// own host's API server while it is there. It implements upstream's
// EndpointReconciler, whose own kinds either keep leases in etcd or count
// masters.
type endpoints struct {
	client   kubernetes.Interface
	nodeName string
	log      *slog.Logger

	mu      sync.Mutex // guards the rest and orders writes
	stopped bool
	// again publishes what was published last, nil before.
	again func() error
}

// republishAfter spaces out publications by endpoints.follow: peers that hold
// this one for failed while it is not would delete its slice each time.
const republishAfter = 200 * time.Millisecond

// follow publishes anew when somebody else changes or deletes the slice.
func (e *endpoints) follow(ctx context.Context, slices cache.SharedIndexInformer) error {
	changed := make(chan struct{}, 1)
	tell := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || s.Name != e.sliceName() || s.Namespace != metav1.NamespaceDefault {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler, err := slices.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, obj any) { tell(obj) }, DeleteFunc: tell,
	})
	if err != nil {
		return fmt.Errorf("follow endpoint slices: %w", err)
	}
	defer func() { _ = slices.RemoveEventHandler(handler) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if err := e.publishAgain(); err != nil {
			e.log.Warn("will publish again within a minute", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(republishAfter):
		}
	}
}

func (e *endpoints) publishAgain() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped || e.again == nil {
		return nil
	}
	return e.again()
}

// ValidateIP reports an address that pods could not reach.
func (e *endpoints) ValidateIP(ip net.IP) error {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok || addr.Unmap().IsUnspecified() || addr.Unmap().IsLoopback() {
		return fmt.Errorf("address %s is not reachable from pods; give this host's own address with --node-ip", ip)
	}
	return nil
}

func (e *endpoints) sliceName() string { return hosts.SliceName(e.nodeName) }

// ReconcileEndpoints makes this peer's slice say ip and ports.
func (e *endpoints) ReconcileEndpoints(service string, ip net.IP, ports []corev1.EndpointPort, _ bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return nil
	}
	e.again = func() error { return e.publish(e.slice(service, ip, ports)) }
	return e.again()
}

func (e *endpoints) publish(want *discoveryv1.EndpointSlice) error {
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	slices := e.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	have, err := slices.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = slices.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && !sameEndpoints(have, want):
		want.ResourceVersion = have.ResourceVersion
		_, err = slices.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish endpoints of the kubernetes service: %w", err)
	}
	return nil
}

func sameEndpoints(a, b *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) &&
		equality.Semantic.DeepEqual(a.Ports, b.Ports) &&
		equality.Semantic.DeepEqual(a.Labels, b.Labels)
}

func (e *endpoints) slice(service string, ip net.IP, ports []corev1.EndpointPort) *discoveryv1.EndpointSlice {
	ready, family := true, discoveryv1.AddressTypeIPv4
	if ip.To4() == nil {
		family = discoveryv1.AddressTypeIPv6
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:      e.sliceName(),
			Namespace: metav1.NamespaceDefault,
			Labels:    map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "shoal"},
		},
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{ip.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			NodeName:   &e.nodeName,
			Hints:      &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: e.nodeName}}},
		}},
	}
	for _, p := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol})
	}
	return slice
}

// RemoveEndpoints keeps the slice: pods outlive the daemon, and one that comes
// back a second later must find the address it knew. Upstream's controller
// calls it before the first publication, where "not found" means that nothing
// was left over, and once more when it stops.
func (e *endpoints) RemoveEndpoints(string, net.IP, []corev1.EndpointPort) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return nil
	}
	return storage.NewKeyNotFoundError(e.sliceName(), 0)
}

// StopReconciling makes later calls do nothing.
func (e *endpoints) StopReconciling() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
}

// Destroy has nothing to free.
func (e *endpoints) Destroy() {}
