// Package tables is what network policy comes down to on one host, as the
// kernel's maps have it: which pods are isolated, who is who, and who may do
// what.
//
// Package netdp/policy makes it from the API's objects and package netdp writes
// it; neither knows the other. bpf/policy.h says how it is read. It is data
// alone and does nothing.
package tables

import (
	"maps"
	"net/netip"
	"slices"
)

// ID is a number made of what it stands for: a set of rules, an identity that
// pods of the same labels share, or a profile of ports. The same thing has the
// same number on every host and after every start.
type ID uint64

const (
	// NoSet is that of a pod that is not isolated in a direction.
	NoSet ID = 0
	// HeldSet lets only the node pass: what else may is not known yet.
	HeldSet ID = 1
	// NodePeer is the identity of this host's own addresses.
	NodePeer ID = 1
	// NoProfile allows nothing.
	NoProfile ID = 0
	// AllProfile allows every protocol and port.
	AllProfile ID = 1
	// FirstID is the first number that has no meaning of its own.
	FirstID ID = 16
)

// Subject is an isolated pod of this host: its sets by direction.
type Subject struct{ Ingress, Egress ID }

// Held is a pod whose policies are not known yet.
var Held = Subject{Ingress: HeldSet, Egress: HeldSet}

// RuleKey is a peer as a set of rules knows it.
type RuleKey struct{ Set, Peer ID }

// BlockKey is a range of peers' addresses in a set of rules. Ranges within each
// other are complete by themselves.
type BlockKey struct {
	Set   ID
	Range netip.Prefix
}

// PortKey is some ports of a protocol in a profile: those whose first Bits bits
// are Port's. 0 bits are all ports.
type PortKey struct {
	Profile  ID
	Protocol uint8 // IANA's number
	Port     uint16
	Bits     uint8
}

// Rules are all sets and profiles in use.
type Rules struct {
	Peers  map[RuleKey]ID  // to a profile
	Blocks map[BlockKey]ID // to a profile
	Ports  map[PortKey]struct{}
}

// Change is what is to be written. All of it is in effect once it is written,
// and no pod has less than its old or its new policy meanwhile.
type Change struct {
	// Rules replace all of before; nil: they stay.
	Rules *Rules
	// Peers are pods of the cell; 0 takes one away.
	Peers map[netip.Addr]ID
	// Subjects are isolated pods of this host; the zero value takes one away.
	Subjects map[netip.Addr]Subject
	// Complete says that peers and subjects that are not named do not exist.
	Complete bool
}

// LocalPod is a pod that has a network on this host.
type LocalPod struct {
	UID       string
	Namespace string
	Name      string
	Addrs     []netip.Addr
	// Identity is what its host was told last of it; nil: nothing.
	Identity *Identity
}

// Identity is what policies know a pod by, beside its namespace.
type Identity struct {
	Labels map[string]string `json:"labels,omitempty"`
	Ports  []NamedPort       `json:"ports,omitempty"`
}

// NamedPort is a port of a container that has a name.
type NamedPort struct {
	Name     string `json:"name"`
	Protocol uint8  `json:"protocol"` // IANA's number
	Port     uint16 `json:"port"`
}

// Equal tells whether no policy can tell the two apart; nil is like itself alone.
func (i *Identity) Equal(j *Identity) bool {
	if i == nil || j == nil {
		return i == j
	}
	return maps.Equal(i.Labels, j.Labels) && slices.Equal(i.Ports, j.Ports)
}

// PodWatcher is told of the pods of this host. It may be called from many
// goroutines.
type PodWatcher interface {
	// PodAttaching is called before a pod can send or be sent anything. It is
	// held until its subject is written.
	PodAttaching(LocalPod)
	// PodIdentified is called when more is known of a pod that is there.
	PodIdentified(LocalPod)
	// PodDetached is called when a pod's network is gone.
	PodDetached(uid string)
}
