package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"shoal/api/claims"
	"shoal/api/loadbalancer/v1alpha1"
)

// One service claims an address. Others that ask for that very address have it too
// where all name the same sharing key and no two have a port in common; they have
// no claim of their own, and the eldest of them gets the claim when its holder goes,
// in one write. Who has an address already comes before who would like it; among
// those who both have it, and those who both do not, the elder comes first.

// sharingNames are the annotations of a service that shares its address, the first
// that is there counts. The others are those of MetalLB and Cilium.
var sharingNames = []string{v1alpha1.SharingKey, "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip", "lbipam.cilium.io/sharing-key"}

// byShared indexes the services that would share the addresses they ask for.
const byShared = "shoal-load-balancer-shared"

var sharedIndex cache.IndexFunc = func(obj any) ([]string, error) {
	s, ok := obj.(*corev1.Service)
	if !ok || !isOurs(s) || sharingKey(s) == "" {
		return nil, nil
	}
	w, err := wishOf(s)
	if err != nil {
		return nil, nil // it is told when it is looked at
	}
	var all []string
	for _, a := range w.addresses {
		all = append(all, a.String())
	}
	return all, nil
}

func sharingKey(s *corev1.Service) string { return firstOf(s.Annotations, sharingNames) }

// sharing tells whether svc may have an address beside the service that has
// claimed it, and if not, why.
func (c *Controller) sharing(svc *corev1.Service, a netip.Addr) (ok bool, why string) {
	key := sharingKey(svc)
	claim, held := c.o.Claims.Claim(a)
	if key == "" || held && claim.Owner == owner(svc) {
		return false, ""
	}
	holder := c.holder(claim)
	if holder != nil && sharingKey(holder) != key {
		return false, fmt.Sprintf("it has not the sharing key %q", key)
	}
	for _, other := range c.sharers(a) {
		if owner(other) == owner(svc) || sharingKey(other) != key || other != holder && !precedes(other, svc, a) {
			continue
		}
		if why := apart(svc, other); why != "" {
			return false, why
		}
	}
	if holder == nil {
		// Its claim is about to be handed on; until then nobody loses what it has.
		return held && claim.Owner != "" && has(svc, a), ""
	}
	if why := apart(svc, holder); why != "" {
		return false, why
	}
	return true, ""
}

// holder is the service a claim was made for; nil if it is gone, not heard of yet,
// or not ours any more.
func (c *Controller) holder(claim claims.Claim) *corev1.Service {
	s := c.service(nameOf(claim.Owner))
	if s == nil || owner(s) != claim.Owner || !isOurs(s) {
		return nil
	}
	return s
}

// precedes tells whether a comes before b where both want the address.
func precedes(a, b *corev1.Service, address netip.Addr) bool {
	if its := has(a, address); its != has(b, address) {
		return its
	}
	return elder(a, b)
}

// apart tells why two services cannot share an address; empty: they can.
func apart(a, b *corev1.Service) string {
	for _, s := range []*corev1.Service{a, b} {
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			return fmt.Sprintf("with externalTrafficPolicy Local, as service %s has it, hosts with its pods alone announce an address", serviceKey(s))
		}
	}
	for _, p := range a.Spec.Ports {
		for _, q := range b.Spec.Ports {
			if p.Port == q.Port && protocolOf(p) == protocolOf(q) {
				return fmt.Sprintf("service %s has port %d/%s too", serviceKey(b), p.Port, protocolOf(p))
			}
		}
	}
	return ""
}

func protocolOf(p corev1.ServicePort) corev1.Protocol {
	if p.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return p.Protocol
}

// elder orders services that want the same, alike on every peer.
func elder(a, b *corev1.Service) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return strings.Compare(string(a.UID), string(b.UID)) < 0
}

// sharers are the services that ask for an address and would share it.
func (c *Controller) sharers(a netip.Addr) []*corev1.Service {
	objs, _ := c.services.ByIndex(byShared, a.String())
	var all []*corev1.Service
	for _, obj := range objs {
		if s, ok := obj.(*corev1.Service); ok {
			all = append(all, s)
		}
	}
	return all
}

// lookAtSharers looks at those whom it may concern that a service has changed.
func (c *Controller) lookAtSharers(of *corev1.Service) {
	if sharingKey(of) == "" {
		return
	}
	w, _ := wishOf(of)
	addresses := addressesOf(of)
	for _, a := range w.addresses {
		addresses = append(addresses, a)
	}
	for _, a := range addresses {
		for _, s := range c.sharers(a) {
			c.queue.Add(key{service: serviceKey(s)})
		}
	}
}

// free gives an address back, to the eldest service that shared it if there is one.
func (c *Controller) free(a netip.Addr) error {
	var heir *corev1.Service
	was, _ := c.o.Claims.Claim(a)
	for _, s := range c.sharers(a) {
		if owner(s) != was.Owner && s.DeletionTimestamp == nil && has(s, a) && (heir == nil || elder(s, heir)) {
			heir = s
		}
	}
	if heir == nil {
		return c.o.Claims.Free(a)
	}
	// Another peer may be faster: then the claim is what that one made of it.
	err := c.o.Claims.HandOver(a, was, owner(heir))
	for _, s := range c.sharers(a) {
		c.queue.Add(key{service: serviceKey(s)})
	}
	return err
}

func has(s *corev1.Service, a netip.Addr) bool {
	for _, its := range addressesOf(s) {
		if its == a {
			return true
		}
	}
	return false
}
