// Package loadbalancer gives Services of type LoadBalancer their addresses, out
// of the ranges that AddressPool objects name (package v1alpha1).
//
// ParseRange, the pools and plan are pure: what a pool holds, whom it serves,
// and what is to become of one service. The Controller follows services, pools,
// namespaces and claims, and acts on plans; Ensure makes the kind known to the
// API server.
//
// What always holds: an address is written into a service's status only once a
// claim on it is durable that names the service; of two services that got one
// address on two sides of a split, the one whose claim was born earlier keeps it
// and the other gets another, with an Event; a claim goes when its service's
// object does, not while a finalizer holds that. Of the peers that see each other
// one acts for a service (api/hosts). Should two do so, both begin at the same
// place of the same pool, which the service's uid decides, and claim the same
// address. Addresses in a status that are of no claim of ours are somebody else's
// and are left alone.
//
// Each peer's API server runs one Controller. Who answers for an address on the
// link is netdp/announce's affair.
package loadbalancer
