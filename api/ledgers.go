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
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"shoal/api/claims"
)

// repairInterval is how often claims are compared with services; upstream's
// repair loops run as often.
const repairInterval = 3 * time.Minute

// Claims live beside the API's objects and are never served by it.
const (
	clusterIPClaims   = "/shoal/claims/clusterips/"
	clusterIPv6Claims = "/shoal/claims/clusterips6/"
	nodePortClaims    = "/shoal/claims/nodeports/"
)

// ledgers are the claims services hold: cluster IPs and node ports.
type ledgers struct {
	ips, ports *claims.Ledger
	addresses  *claims.Addresses
	// Of the second range, nil in a cell without IPv6.
	ips6       *claims.Ledger
	addresses6 *claims.Addresses
}

// number kinds: what a number is one of.
type numberKind int

const (
	clusterIPv4 numberKind = iota
	clusterIPv6
	nodePort
)

func openLedgers(ctx context.Context, o Options) (*ledgers, error) {
	l := &ledgers{}
	var err error
	if l.ips, l.addresses, err = openAddresses(ctx, o, clusterIPClaims, o.ServiceCIDR); err != nil {
		return nil, err
	}
	if o.ServiceCIDR6.IsValid() {
		if l.ips6, l.addresses6, err = openAddresses(ctx, o, clusterIPv6Claims, o.ServiceCIDR6); err != nil {
			return nil, err
		}
	}
	l.ports, err = claims.Open(ctx, records{o.DB}, nodePortClaims, o.NodeName, NodePortRange.Size, claims.ReservedPorts(NodePortRange.Size))
	if err != nil {
		return nil, err
	}
	return l, nil
}

func openAddresses(ctx context.Context, o Options, prefix string, cidr netip.Prefix) (*claims.Ledger, *claims.Addresses, error) {
	size, err := claims.RangeSize(cidr)
	if err != nil {
		return nil, nil, err
	}
	ledger, err := claims.Open(ctx, records{o.DB}, prefix, o.NodeName, size, claims.ReservedAddresses(size))
	if err != nil {
		return nil, nil, err
	}
	return ledger, claims.NewAddresses(ledger, cidr), nil
}

// allocators are upstream's view of the cluster IPs, IPv4 first.
func (l *ledgers) allocators() []ipallocator.Interface {
	out := []ipallocator.Interface{l.addresses}
	if l.addresses6 != nil {
		out = append(out, l.addresses6)
	}
	return out
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
	var idleIPs, idleIPs6, idlePorts map[int]bool
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	for {
		all, err := services.List(labels.Everything())
		if err == nil {
			ips, ips6, ports := l.inUse(all)
			if l.ips6 != nil {
				if idleIPs6, err = l.ips6.Repair(ips6, idleIPs6); err != nil {
					log.Warn("repair IPv6 cluster IP claims", "err", err)
				}
			}
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

func (l *ledgers) inUse(services []*corev1.Service) (ips, ips6, ports map[int]bool) {
	ips, ips6, ports = map[int]bool{}, map[int]bool{}, map[int]bool{}
	for _, s := range services {
		for n := range ipsOf(s, l.addresses) {
			ips[n] = true
		}
		for n := range ipsOf(s, l.addresses6) {
			ips6[n] = true
		}
		for n := range portsOf(s) {
			ports[n] = true
		}
	}
	return ips, ips6, ports
}

// ipsOf yields the numbers of a service's cluster IPs in one range; nil has none.
func ipsOf(s *corev1.Service, in *claims.Addresses) iter.Seq[int] {
	return func(yield func(int) bool) {
		if in == nil {
			return
		}
		for _, ip := range s.Spec.ClusterIPs {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				continue
			}
			if n, ok := in.Number(addr); ok && !yield(n) {
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
