package api

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"shoal/api/claims"
	"shoal/api/loadbalancer"
)

// loadBalancerClaims are of the addresses of services of type LoadBalancer, by
// the address.
const loadBalancerClaims = "/shoal/claims/loadbalancers/"

// ensurePoolsRetry is the wait after the kind AddressPool could not be written.
const ensurePoolsRetry = 5 * time.Second

// addLoadBalancers has start run what gives services of type LoadBalancer their
// addresses.
func (s *Server) addLoadBalancers(start func(string, func(context.Context)), shared informers.SharedInformerFactory, client kubernetes.Interface, o Options) error {
	config := s.ClientConfig("shoal-load-balancer")
	definitions, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client of the kind AddressPool: %w", err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client of AddressPools: %w", err)
	}
	owned, err := claims.OpenAddresses(context.Background(), records{o.DB}, loadBalancerClaims, o.NodeName)
	if err != nil {
		return err
	}
	controller, err := loadbalancer.New(loadbalancer.Options{
		Self: o.NodeName, Members: o.Members, Client: client, Objects: objects, Claims: owned, Logger: s.log,
		Ranges: cellRanges(o),
		Warn: func(ctx context.Context, about corev1.ObjectReference, reason, message string) error {
			return postEvent(ctx, client, about, reason, message)
		},
	}, shared)
	if err != nil {
		return err
	}
	namespaces := shared.Core().V1().Namespaces().Informer()
	start("assign-load-balancer-addresses", func(ctx context.Context) {
		s.ensurePools(ctx, definitions)
		if cache.WaitForCacheSync(ctx.Done(), namespaces.HasSynced) {
			controller.Run(ctx)
		}
	})
	return nil
}

// cellRanges are what the cell gives out itself, to pods and as cluster IPs. Those
// of IPv6 are all of one range.
func cellRanges(o Options) []netip.Prefix {
	ranges := []netip.Prefix{o.ServiceCIDR, PodRange}
	if o.ServiceCIDR6.IsValid() {
		ranges = append(ranges, netip.PrefixFrom(o.ServiceCIDR6.Addr(), ipv6CellBits).Masked())
	}
	return ranges
}

// ensurePools has the API server know the kind AddressPool. A split or a full
// disk may stand in the way for a while.
func (s *Server) ensurePools(ctx context.Context, definitions apiextensionsclient.Interface) {
	for {
		err := loadbalancer.Ensure(ctx, definitions)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("the kind AddressPool is not there yet, will retry", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(ensurePoolsRetry):
		}
	}
}
