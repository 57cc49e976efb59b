package services

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	v1 "shoal/api/control/v1"
	"shoal/netdp"
)

// Kernel is what the datapath really forwards, one entry for each address.
type Kernel interface {
	KernelServices() ([]netdp.Service, error)
}

// Comparer answers GET v1.ServicesPath: what the kernel holds of services,
// beside what this host's store says.
type Comparer struct {
	controller *Controller
	kernel     Kernel
	name       func(netip.AddrPort) v1.FlowEnd
	announced  func() []netip.Addr
}

// NewComparer compares what the controller's informers know. name puts names
// to addresses, announced tells which this host answers for on the link.
func NewComparer(c *Controller, kernel Kernel, name func(netip.AddrPort) v1.FlowEnd, announced func() []netip.Addr) *Comparer {
	return &Comparer{controller: c, kernel: kernel, name: name, announced: announced}
}

// ServeHTTP implements http.Handler.
func (c *Comparer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.URL.Query().Get("namespace"), r.URL.Query().Get("name")
	found, err := c.compare(r.Context(), namespace, name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(&v1.HostServices{Host: c.controller.o.Node, Services: found})
}

func (c *Comparer) compare(ctx context.Context, namespace, name string) ([]v1.HostService, error) {
	want, err := c.controller.wanted(namespace, name)
	if err != nil {
		return nil, err
	}
	kernel, err := c.kernel.KernelServices()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	found := Compare(kernel, want, func(key string) bool { return keyIsOf(key, namespace, name) })
	announced := c.announced()
	for i := range found {
		for j := range found[i].Addresses {
			a := &found[i].Addresses[j]
			if at, err := netip.ParseAddrPort(a.Address); err == nil {
				a.Announced = slices.Contains(announced, at.Addr())
			}
		}
		for j := range found[i].Backends {
			b := &found[i].Backends[j]
			if at, err := netip.ParseAddrPort(b.Address); err == nil {
				end := c.name(at)
				b.Pod, b.Node = end.Pod, end.Node
			}
		}
	}
	return found, nil
}

// wanted is what the datapath should have of the services of a namespace, or
// of all; or of one.
func (c *Controller) wanted(namespace, name string) ([]netdp.Service, error) {
	all, err := c.services.Services(namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	all = slices.DeleteFunc(slices.Clone(all), func(s *corev1.Service) bool { return name != "" && s.Name != name })
	var out []netdp.Service
	for _, svc := range all {
		ports, _, err := c.wants(svc.Namespace + "/" + svc.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, ports...)
	}
	return out, nil
}

// keyIsOf tells whether a key of portKey is of that service; an empty word
// stands for any.
func keyIsOf(key, namespace, name string) bool {
	ns, rest, ok := strings.Cut(key, "/")
	service, _, _ := strings.Cut(rest, ":")
	return ok && (namespace == "" || ns == namespace) && (name == "" || service == name)
}

// Compare puts what the kernel has of each port of a service beside what it
// should have. What the kernel has and nobody wants counts where of says so: it
// is given the key. It is pure.
func Compare(kernel, want []netdp.Service, of func(key string) bool) []v1.HostService {
	held := map[string][]netdp.Service{}
	byFace := map[string]string{} // address → key
	for _, s := range want {
		held[s.Key] = nil
		for _, f := range s.Frontends {
			byFace[s.Proto.String()+f.String()] = s.Key
		}
	}
	for _, s := range kernel {
		key := s.Key
		if key == "" { // an earlier daemon left it: whose address it is tells
			key = byFace[s.Proto.String()+s.Frontends[0].String()]
		}
		if _, ok := held[key]; ok || key != "" && of(key) {
			held[key] = append(held[key], s)
		}
	}
	wanted := map[string]netdp.Service{}
	for _, s := range want {
		wanted[s.Key] = s
	}
	out := make([]v1.HostService, 0, len(held))
	for key, has := range held {
		out = append(out, compareOne(key, has, wanted[key]))
	}
	slices.SortFunc(out, func(a, b v1.HostService) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func compareOne(key string, kernel []netdp.Service, want netdp.Service) v1.HostService {
	faces, backends := map[string]v1.HostAddress{}, map[netip.AddrPort]v1.HostBackend{}
	for _, f := range want.Frontends {
		faces[f.String()] = v1.HostAddress{Address: f.String(), Store: true}
	}
	for _, b := range want.Backends {
		backends[b.Addr] = v1.HostBackend{Address: b.Addr.String(), Store: stateWord(b)}
	}
	for _, s := range kernel {
		for _, f := range s.Frontends {
			a := faces[f.String()]
			a.Address, a.Kernel = f.String(), true
			faces[f.String()] = a
		}
		for _, b := range s.Backends {
			h := backends[b.Addr]
			h.Address, h.Kernel = b.Addr.String(), stateWord(b)
			backends[b.Addr] = h
		}
	}
	out := v1.HostService{Name: key}
	for _, a := range faces {
		out.Addresses = append(out.Addresses, a)
	}
	for _, b := range backends {
		out.Backends = append(out.Backends, b)
	}
	slices.SortFunc(out.Addresses, func(a, b v1.HostAddress) int { return cmp.Compare(a.Address, b.Address) })
	slices.SortFunc(out.Backends, func(a, b v1.HostBackend) int { return cmp.Compare(a.Address, b.Address) })
	return out
}

func stateWord(b netdp.Backend) string {
	if b.Draining {
		return v1.BackendDraining
	}
	return v1.BackendActive
}
