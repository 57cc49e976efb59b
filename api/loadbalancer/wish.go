package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"shoal/api/loadbalancer/v1alpha1"
)

// wishNames are the annotations of a service that wants certain addresses, the
// first that is there counts. The others are those of MetalLB, Cilium and
// kube-vip, so that manifests made for these work as they are.
var wishNames = []string{
	v1alpha1.WantedAddresses,
	"metallb.io/loadBalancerIPs",
	"metallb.universe.tf/loadBalancerIPs",
	"lbipam.cilium.io/ips",
	"kube-vip.io/loadbalancerIPs",
}

// poolNames are those of a service that wants a certain pool.
var poolNames = []string{v1alpha1.WantedPool, "metallb.io/address-pool", "metallb.universe.tf/address-pool"}

// wish is what a service asks for.
type wish struct {
	addresses map[corev1.IPFamily]netip.Addr
	pool      string
}

// isOurs reports whether a service has its addresses from pools. One that is
// being deleted has them until the object is gone: while a finalizer holds it,
// its status is there, and hosts forward and announce what that has.
func isOurs(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == v1alpha1.Class)
}

func wishOf(svc *corev1.Service) (wish, error) {
	w := wish{addresses: map[corev1.IPFamily]netip.Addr{}, pool: firstOf(svc.Annotations, poolNames)}
	list := firstOf(svc.Annotations, wishNames)
	if list == "" {
		list = svc.Spec.LoadBalancerIP
	}
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return w, fmt.Errorf("the wanted address %q is none: write addresses like 192.0.2.10, separated by commas", s)
		}
		a = a.Unmap()
		family := familyOf(a)
		if _, twice := w.addresses[family]; twice {
			return w, fmt.Errorf("two %s addresses are wanted; a service gets one of each family", family)
		}
		w.addresses[family] = a
	}
	return w, nil
}

func firstOf(annotations map[string]string, names []string) string {
	for _, name := range names {
		if v := strings.TrimSpace(annotations[name]); v != "" {
			return v
		}
	}
	return ""
}

// families are those the service has, and whether it can do without the second.
func families(svc *corev1.Service) (of []corev1.IPFamily, one bool) {
	if len(svc.Spec.IPFamilies) == 0 {
		return []corev1.IPFamily{corev1.IPv4Protocol}, false
	}
	policy := svc.Spec.IPFamilyPolicy
	return svc.Spec.IPFamilies, policy != nil && *policy == corev1.IPFamilyPolicyPreferDualStack
}
