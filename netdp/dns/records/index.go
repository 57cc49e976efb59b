package records

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"shoal/netdp/dns/wire"
)

// Index answers for the names of one cell. All methods may be called from many
// goroutines.
type Index struct {
	domain string         // "cluster.local."
	own    []netip.Prefix // addresses whose names nobody else knows

	version atomic.Uint64

	mu         sync.RWMutex // guards all below
	server     netip.Addr   // this DNS server as pods call it
	namespaces map[string]struct{}
	services   map[key]*service
	names      map[netip.Addr][]pointer // of services and endpoints
	pods       map[podKey]uint32        // how many pods have the address
}

type key struct{ namespace, name string }

type podKey struct {
	namespace string
	address   netip.Addr
}

// pointer is a name that an address has, and the service it is of.
type pointer struct {
	service key
	name    string
}

// New makes an index for a domain such as "cluster.local". own are the ranges of
// service and pod addresses: what nobody has there has no name anywhere.
func New(domain string, own ...netip.Prefix) *Index {
	return &Index{
		domain:     strings.ToLower(strings.Trim(domain, ".")) + ".",
		own:        own,
		namespaces: map[string]struct{}{},
		services:   map[key]*service{},
		names:      map[netip.Addr][]pointer{},
		pods:       map[podKey]uint32{},
	}
}

// Version grows with each change.
func (x *Index) Version() uint64 { return x.version.Load() }

// SetServer says at which address pods call this server.
func (x *Index) SetServer(addr netip.Addr) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.server != addr {
		x.server = addr
		x.version.Add(1)
	}
}

// SetNamespace adds a namespace or, with exists false, takes it away.
func (x *Index) SetNamespace(name string, exists bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, had := x.namespaces[name]; had == exists {
		return
	}
	if exists {
		x.namespaces[name] = struct{}{}
	} else {
		delete(x.namespaces, name)
	}
	x.version.Add(1)
}

// SetService makes the index say what a service and all its slices mean.
func (x *Index) SetService(svc *corev1.Service, slices []*discoveryv1.EndpointSlice) {
	k := key{svc.Namespace, svc.Name}
	s := newService(svc, slices)
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.services[k]
	if old != nil && old.equal(s) {
		return
	}
	x.forgetNames(k, old)
	x.services[k] = s
	s.eachName(k, x.domain, func(addr netip.Addr, name string) {
		x.names[addr] = append(x.names[addr], pointer{k, name})
	})
	x.version.Add(1)
}

// DeleteService forgets a service; an unknown one is no error.
func (x *Index) DeleteService(namespace, name string) {
	k := key{namespace, name}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.services[k]
	if old == nil {
		return
	}
	x.forgetNames(k, old)
	delete(x.services, k)
	x.version.Add(1)
}

func (x *Index) forgetNames(k key, s *service) {
	if s == nil {
		return
	}
	s.eachName(k, x.domain, func(addr netip.Addr, _ string) {
		kept := make([]pointer, 0, len(x.names[addr]))
		for _, p := range x.names[addr] {
			if p.service != k {
				kept = append(kept, p)
			}
		}
		if len(kept) == 0 {
			delete(x.names, addr)
		} else {
			x.names[addr] = kept
		}
	})
}

// MovePod says that a pod of a namespace had some addresses and has others now;
// either may be empty.
func (x *Index) MovePod(namespace string, from, to []netip.Addr) {
	if len(from) == 0 && len(to) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, addr := range to {
		x.pods[podKey{namespace, addr}]++
	}
	for _, addr := range from {
		k := podKey{namespace, addr}
		if x.pods[k]--; x.pods[k] == 0 {
			delete(x.pods, k)
		}
	}
	x.version.Add(1)
}

// Domain is the cell's domain in wire form.
func (x *Index) Domain() ([]byte, error) { return wire.FromText(x.domain) }
