package api

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/registry/core/service/allocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"shoal/api/claims"
)

// repairInterval is how often claims are compared with services; upstream's
// repair loops run as often.
const repairInterval = 3 * time.Minute

// Claims live beside the API's objects and are never served by it.
const (
	clusterIPClaims = "/shoal/claims/clusterips/"
	nodePortClaims  = "/shoal/claims/nodeports/"
)

// ledgers are the claims services hold: cluster IPs and node ports.
type ledgers struct {
	ips, ports *claims.Ledger
	addresses  *claims.Addresses
}

func openLedgers(ctx context.Context, o Options) (*ledgers, error) {
	size, err := claims.RangeSize(o.ServiceCIDR)
	if err != nil {
		return nil, err
	}
	ips, err := claims.Open(ctx, records{o.DB}, clusterIPClaims, o.NodeName, size, claims.ReservedAddresses(size))
	if err != nil {
		return nil, err
	}
	ports, err := claims.Open(ctx, records{o.DB}, nodePortClaims, o.NodeName, NodePortRange.Size, claims.ReservedPorts(NodePortRange.Size))
	if err != nil {
		return nil, err
	}
	return &ledgers{ips: ips, ports: ports, addresses: claims.NewAddresses(ips, o.ServiceCIDR)}, nil
}

func (l *ledgers) nodePorts() (*portallocator.PortAllocator, error) {
	return portallocator.New(NodePortRange, func(int, string, int) (allocator.Interface, error) {
		return claims.Ports{Ledger: l.ports}, nil
	})
}

// run repairs claims once the services are known and then now and again: what
// is in use and not claimed, what is claimed and not in use. Numbers that two
// services hold are collisions' work.
func (l *ledgers) run(ctx context.Context, services corelisters.ServiceLister, log *slog.Logger) {
	var idleIPs, idlePorts map[int]bool
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	for {
		all, err := services.List(labels.Everything())
		if err == nil {
			ips, ports := l.inUse(all)
			if idleIPs, err = l.ips.Repair(ips, idleIPs); err != nil {
				log.Warn("repair cluster IP claims", "err", err)
			}
			if idlePorts, err = l.ports.Repair(ports, idlePorts); err != nil {
				log.Warn("repair node port claims", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (l *ledgers) inUse(services []*corev1.Service) (ips, ports map[int]bool) {
	ips, ports = map[int]bool{}, map[int]bool{}
	for _, s := range services {
		for n := range l.ipsOf(s) {
			ips[n] = true
		}
		for n := range portsOf(s) {
			ports[n] = true
		}
	}
	return ips, ports
}

// ipsOf yields the numbers of a service's cluster IPs.
func (l *ledgers) ipsOf(s *corev1.Service) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, ip := range s.Spec.ClusterIPs {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				continue
			}
			if n, ok := l.addresses.Number(addr); ok && !yield(n) {
				return
			}
		}
	}
}

// portsOf yields the numbers of a service's node ports.
func portsOf(s *corev1.Service) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 && !yield(int(p.NodePort)-NodePortRange.Base) {
				return
			}
		}
		if p := s.Spec.HealthCheckNodePort; p != 0 {
			yield(int(p) - NodePortRange.Base)
		}
	}
}
