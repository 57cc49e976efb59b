// Package driver is the seam between the agent and whatever gives the pods of a
// host their network.
//
// There are two drivers: Builtin, shoal's own datapath, and the CNI plugins of a
// directory (netdp/cni). Chosen puts the one that a host was told to use in front
// of the others.
//
// What every driver holds: each call may be repeated with the same effect, also
// by another daemon than the one that made it first; what was attached outlives
// the daemon; two pods are worked on at once, the same pod never.
package driver

import (
	"context"
	"net/netip"

	v1 "k8s.io/api/core/v1"

	"shoal/netdp/policy/tables"
)

// NodeLabel says on a host's Node which driver gives its new pods their network,
// in the words of `shoal start --network-driver`.
const NodeLabel = "shoal.dev/network-driver"

// Driver gives pods a network namespace and addresses.
type Driver interface {
	// Attach makes the pod's network, or looks whether what it has is whole and
	// returns that.
	Attach(ctx context.Context, pod Pod) (Attachment, error)
	// Detach takes it away; a pod that has none is no error.
	Detach(ctx context.Context, podUID string) error
	// Attached lists the uids of all pods that have anything here, half-made
	// networks included.
	Attached(ctx context.Context) ([]string, error)
}

// Pod is what a driver may want to know of a pod.
type Pod struct {
	UID, Namespace, Name string
	// NetNS is the path of a namespace that was made for the pod, as one that a
	// user namespace owns; it is the same each time. Empty: the driver makes one.
	NetNS string
	// Identity is what network policies know the pod by while the API says nothing of
	// it, as of a static pod whose mirror it refuses.
	Identity    *tables.Identity
	Annotations map[string]string
	HostPorts   []HostPort
	// DNS gives the pod's resolver, for a driver that has use for it.
	DNS func(context.Context) (DNS, error)
}

// HostPort is a port of the host that leads to one of the pod's.
type HostPort struct {
	Host, Container int32
	Protocol        v1.Protocol
	Address         string // of the host; all if empty
}

// DNS is what a pod's resolv.conf says.
type DNS struct{ Servers, Searches, Options []string }

// Attachment is the network that a pod has.
type Attachment struct {
	NetNS     string       // path at which its namespace is pinned until Detach
	Addresses []netip.Addr // at most one of each family, IPv4 first
	// Warnings are for people; they keep nothing from running.
	Warnings []Warning
}

// Warning becomes an Event of the pod.
type Warning struct{ Reason, Message string }
