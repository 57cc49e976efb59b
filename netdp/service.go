package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Proto is the number of a transport protocol.
type Proto uint8

// The protocols that services have.
const (
	TCP Proto = 6
	UDP Proto = 17
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case 1:
		return "ICMP"
	case 58:
		return "ICMPv6"
	case 132:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Service is one port of a service: who calls it, and who answers.
type Service struct {
	// Key names it in errors and is unique: namespace/name:port.
	Key       string
	Proto     Proto
	Frontends []Frontend
	Backends  []Backend
	// LocalOutside holds other machines to the backends that are for them, also
	// when there is none: externalTrafficPolicy Local. Without it they get any
	// while the backends are being changed.
	LocalOutside bool
	// AffinitySeconds is how long a client keeps its backend after its last new
	// connection: a pod or host by its network namespace, another machine by its
	// address. 0: it does not.
	AffinitySeconds uint32
	// Sources are the only callers of frontends that are Filtered. Empty: anybody.
	Sources []netip.Prefix
}

// Frontend is an address at which a service is called.
type Frontend struct {
	// Addr is the zero value for a node port, any IPv4 address of this host, or
	// NodePortIPv6.
	Addr netip.Addr
	Port uint16
	// Outside lets other machines call it. Node ports always do.
	Outside bool
	// Filtered admits only callers in the service's Sources.
	Filtered bool
}

// Backend is one endpoint.
type Backend struct {
	Addr netip.AddrPort
	// Draining backends keep the connections they have and get no new one.
	Draining bool
	// Callers says who gets new connections to it.
	Callers Callers
}

// Callers is whom a backend serves.
type Callers uint8

// Inside are programs of this host and its pods, whatever address they call;
// outside is who calls from another machine.
const (
	AnyCaller Callers = iota
	OnlyInside
	OnlyOutside
)

// ErrFull means that a kernel map has reached its limit. Nothing that was set
// before is affected.
var ErrFull = errors.New("kernel map is full")

// FrontendTakenError means that another service already has an address.
type FrontendTakenError struct {
	Service, Holder string
	Frontend        Frontend
	Proto           Proto
}

func (e *FrontendTakenError) Error() string {
	return fmt.Sprintf("set service %s: %s %s belongs to service %s; change or delete one of them",
		e.Service, e.Proto, e.Frontend, e.Holder)
}

// NodePortIPv6 is the Addr of a node port at any IPv6 address of this host.
var NodePortIPv6 = netip.IPv6Unspecified()

func (f Frontend) nodePort() bool { return !f.Addr.IsValid() || f.Addr == NodePortIPv6 }

func (f Frontend) String() string {
	switch {
	case f.Addr == NodePortIPv6:
		return fmt.Sprintf("IPv6 node port %d", f.Port)
	case !f.Addr.IsValid():
		return fmt.Sprintf("node port %d", f.Port)
	}
	return netip.AddrPortFrom(f.Addr, f.Port).String()
}

func (f Frontend) outside() bool { return f.Outside || f.nodePort() }

// normalized is the service with its backends in order and without doubles, as
// the merge with what the kernel has needs them.
func (s Service) normalized() (_ Service, err error) {
	if s.Proto != TCP && s.Proto != UDP {
		return s, fmt.Errorf("set service %s: %s is not supported; use TCP or UDP", s.Key, s.Proto)
	}
	s.Backends = slices.Clone(s.Backends)
	for i, b := range s.Backends {
		if !b.Addr.IsValid() {
			return s, fmt.Errorf("set service %s: a backend has no address", s.Key)
		}
		s.Backends[i].Addr = netip.AddrPortFrom(b.Addr.Addr().Unmap(), b.Addr.Port())
	}
	slices.SortFunc(s.Backends, func(a, b Backend) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return boolCompare(a.Draining, b.Draining)
	})
	s.Backends = slices.CompactFunc(s.Backends, func(a, b Backend) bool { return a.Addr == b.Addr })
	s.Sources, err = normalizedSources(s.Sources)
	if err != nil {
		return s, fmt.Errorf("set service %s: %w", s.Key, err)
	}
	return s, nil
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
