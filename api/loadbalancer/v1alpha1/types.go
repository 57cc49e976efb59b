// Package v1alpha1 is the form of AddressPool objects, of the group shoal.dev:
// the addresses that Services of type LoadBalancer get. addresspool.yaml, beside
// this package, is the schema that the API server holds them to.
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Pools is the resource.
var Pools = schema.GroupVersionResource{Group: "shoal.dev", Version: "v1alpha1", Resource: "addresspools"}

const (
	// Class is the spec.loadBalancerClass of services that are ours; one that
	// names no class is ours too.
	Class = "shoal.dev/load-balancer"
	// WantedAddresses is the annotation of a service that wants certain
	// addresses, one of each family, separated by commas. Those that people know
	// from other software are read too.
	WantedAddresses = "shoal.dev/load-balancer-ips"
	// WantedPool is the annotation of a service that wants addresses of the
	// named pool.
	WantedPool = "shoal.dev/address-pool"
	// SharingKey is the annotation of a service that shares the address it asks for
	// with others that have the same value and other ports.
	SharingKey = "shoal.dev/sharing-key"
	// AddressAssigned is the condition of a service that tells whether it has
	// its addresses from a pool. Hosts announce only what it is true of.
	AddressAssigned = "shoal.dev/AddressAssigned"
	// Announced is the condition of a service whose message is the name of the
	// host that answers for its address on the link.
	Announced = "shoal.dev/Announced"
	// Links is the annotation of a Node with the networks that its links to other
	// machines are in: prefixes, with commas between them.
	Links = "shoal.dev/links"
	// LinkHardware is the annotation of a Node with the hardware addresses of these
	// links, with commas between them: by these hosts know one another there.
	LinkHardware = "shoal.dev/link-hardware"
	// AnnouncesSince is the annotation of a Node with the time from which on the host
	// has been ready to announce, later than that of all who were before it.
	AnnouncesSince = "shoal.dev/announces-since"
	// AnnouncesStable is the annotation of a Node whose host has been ready for a
	// while: the AnnouncesSince that this is true of.
	AnnouncesStable = "shoal.dev/announces-stable"
	// Leaving is the annotation of a Node that drains: others announce what it
	// did. The value is since when.
	Leaving = "shoal.dev/leaving"
	// Usable is the condition of a pool that tells whether it can be read.
	Usable = "Usable"
)

// AddressPool has addresses for services of type LoadBalancer.
type AddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AddressPoolSpec   `json:"spec"`
	Status AddressPoolStatus `json:"status,omitempty"`
}

// AddressPoolSpec is which addresses, and whose.
type AddressPoolSpec struct {
	// Addresses are ranges of both families: "192.0.2.10-192.0.2.20", a prefix
	// ("192.0.2.16/28", of which the first and the last IPv4 address are left
	// out), or one address.
	Addresses []string `json:"addresses"`
	// AutoAssign: services that name neither this pool nor an address of it may
	// get one. Left out, they may.
	AutoAssign *bool `json:"autoAssign,omitempty"`
	// NamespaceSelector chooses the namespaces whose services the pool is for,
	// by their labels; left out, all.
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// ServiceSelector chooses among their services; left out, all.
	ServiceSelector *metav1.LabelSelector `json:"serviceSelector,omitempty"`
}

// AddressPoolStatus is what became of a pool.
type AddressPoolStatus struct {
	// Assigned counts the addresses that services have.
	Assigned int64 `json:"assigned"`
	// Free counts the others, up to 2^32 of each range.
	Free       int64              `json:"free"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
