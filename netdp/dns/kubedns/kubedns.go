// Package kubedns keeps the kube-dns Service, by which pods call their host's
// DNS server, and knows at which address they find it.
//
// What always holds: the Service is there while a daemon runs, made anew when
// somebody deletes it; one that somebody else has made is left as it is, and its
// address is what pods are told; an address that another Service has is never
// taken from it.
//
// The daemon runs one Keeper. Who answers at the address is decided by package
// netdp/services.
package kubedns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// Namespace is where everybody looks for it.
	Namespace = "kube-system"
	// Name is what everybody looks for there.
	Name = "kube-dns"
	// Key is both.
	Key = Namespace + "/" + Name

	port = 53
	// number is which address of the service range it has, as kubeadm gives it.
	number = 10
	// retry spaces out attempts: the namespace is made a moment after the API
	// answers first.
	retry = 100 * time.Millisecond
	// slowRetry is for the attempts after patience.
	slowRetry = 5 * time.Second
	// patience bounds the wait of Ensure.
	patience = 10 * time.Second
)

// Keeper keeps the Service.
type Keeper struct {
	client  kubernetes.Interface
	log     *slog.Logger
	wanted  netip.Addr
	address atomic.Pointer[netip.Addr]
	missing chan struct{} // of one place
}

// New makes a Keeper for the range of service addresses.
func New(client kubernetes.Interface, services netip.Prefix, log *slog.Logger) *Keeper {
	wanted := services.Masked().Addr()
	for range number {
		wanted = wanted.Next()
	}
	k := &Keeper{client: client, log: log, wanted: wanted, missing: make(chan struct{}, 1)}
	k.address.Store(&wanted)
	return k
}

// Address is where pods find the DNS server.
func (k *Keeper) Address() netip.Addr { return *k.address.Load() }

// Ensure makes the Service if it is not there and learns its address. It waits
// as long as the API is still being set up, but not forever: Run goes on.
func (k *Keeper) Ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := k.ensure(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retry):
		}
	}
}

// Run makes it anew whenever it is gone, until ctx ends. changed is told each
// address it gets.
func (k *Keeper) Run(ctx context.Context, services cache.SharedIndexInformer, changed func(netip.Addr)) error {
	handler, err := services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { k.saw(obj, changed) },
		UpdateFunc: func(_, obj any) { k.saw(obj, changed) },
		DeleteFunc: k.gone,
	})
	if err != nil {
		return fmt.Errorf("follow the %s service: %w", Key, err)
	}
	defer func() { _ = services.RemoveEventHandler(handler) }()
	changed(k.Address())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.missing:
		}
		for err := k.ensure(ctx); err != nil && ctx.Err() == nil; err = k.ensure(ctx) {
			k.log.Warn("the service of the cluster DNS cannot be made yet", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(slowRetry):
			}
		}
	}
}

// Missing has Run look for the Service: Ensure failed.
func (k *Keeper) Missing() {
	select {
	case k.missing <- struct{}{}:
	default:
	}
}

func (k *Keeper) saw(obj any, changed func(netip.Addr)) {
	if svc, ok := obj.(*corev1.Service); ok && svc.Namespace == Namespace && svc.Name == Name {
		if was := k.Address(); k.learn(svc) && k.Address() != was {
			k.log.Info("the cluster DNS has another address; pods that start from now on use it", "was", was, "address", k.Address())
			changed(k.Address())
		}
	}
}

func (k *Keeper) gone(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if svc, ok := obj.(*corev1.Service); ok && svc.Namespace == Namespace && svc.Name == Name {
		k.Missing()
	}
}

func (k *Keeper) ensure(ctx context.Context) error {
	services := k.client.CoreV1().Services(Namespace)
	svc, err := services.Get(ctx, Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		svc, err = services.Create(ctx, k.service(k.wanted.String()), metav1.CreateOptions{})
		if apierrors.IsInvalid(err) { // the address is taken
			svc, err = k.elsewhere(ctx, err)
		}
	}
	if err != nil {
		return fmt.Errorf("make the %s service: %w", Key, err)
	}
	if !k.learn(svc) {
		return fmt.Errorf("use the %s service: it has no cluster IP; delete it, and it is made anew", Key)
	}
	return nil
}

// learn takes the Service's address.
func (k *Keeper) learn(svc *corev1.Service) bool {
	addr, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return false
	}
	k.address.Store(&addr)
	return true
}

// elsewhere makes the Service at any address: in a cell older than the cluster
// DNS another may have this address. Whoever looks for the reason finds it in the
// log and in the Service's events.
func (k *Keeper) elsewhere(ctx context.Context, cause error) (*corev1.Service, error) {
	holder := k.holder(ctx)
	if holder == "" {
		return nil, cause // it is something else, or the holder has just gone
	}
	svc, err := k.client.CoreV1().Services(Namespace).Create(ctx, k.service(""), metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	message := fmt.Sprintf("%s belongs to service %s, so the cluster DNS is at %s; pods are told so. To have it at its usual address, delete both services and make yours anew", k.wanted, holder, svc.Spec.ClusterIP)
	k.log.Warn("the usual address of the cluster DNS is taken", "address", k.wanted, "by", holder, "instead", svc.Spec.ClusterIP)
	now := metav1.Now()
	_, err = k.client.CoreV1().Events(Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: Namespace, GenerateName: Name + "."},
		InvolvedObject: corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: Namespace, Name: Name, UID: svc.UID},
		Type:           corev1.EventTypeWarning, Reason: "ClusterDNSAddressTaken", Message: message,
		Source: corev1.EventSource{Component: "shoal"}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		k.log.Warn("make event", "error", err)
	}
	return svc, nil
}

// holder is the service that has the wanted address.
func (k *Keeper) holder(ctx context.Context) string {
	all, err := k.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return ""
	}
	for i := range all.Items {
		if all.Items[i].Spec.ClusterIP == k.wanted.String() {
			return all.Items[i].Namespace + "/" + all.Items[i].Name
		}
	}
	return ""
}

func (k *Keeper) service(address string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: Namespace, Name: Name,
			Labels: map[string]string{
				"k8s-app": Name, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "shoal",
			},
			Annotations: map[string]string{"kubernetes.io/description": "Every host answers this service for its own pods; it has no endpoints."},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: address,
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: port, TargetPort: intstr.FromInt32(port)},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: port, TargetPort: intstr.FromInt32(port)},
			},
		},
	}
}
