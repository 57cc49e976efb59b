package loadbalancer

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"shoal/api/loadbalancer/v1alpha1"
)

// Pool is an AddressPool as it is used.
type Pool struct {
	Name       string
	Ranges     []Range
	AutoAssign bool
	// Namespaces and Services say whom it is for, by labels.
	Namespaces, Services labels.Selector
}

// NewPool reads an object. What cannot be read of it makes an error; the pool
// then has the rest, which goes on being used.
func NewPool(o *v1alpha1.AddressPool) (Pool, error) {
	p := Pool{Name: o.Name, AutoAssign: o.Spec.AutoAssign == nil || *o.Spec.AutoAssign}
	var errs []error
	for _, s := range o.Spec.Addresses {
		r, err := ParseRange(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.Ranges = append(p.Ranges, r)
	}
	var err error
	if p.Namespaces, err = selector(o.Spec.NamespaceSelector); err != nil {
		errs = append(errs, fmt.Errorf("read namespaceSelector: %w", err))
	}
	if p.Services, err = selector(o.Spec.ServiceSelector); err != nil {
		errs = append(errs, fmt.Errorf("read serviceSelector: %w", err))
	}
	return p, errors.Join(errs...)
}

// selector is everything for one that is left out, and nothing for one that
// cannot be read.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	chosen, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing(), err
	}
	return chosen, nil
}

func (p Pool) serves(svc *corev1.Service, namespace labels.Set) bool {
	return p.Services.Matches(labels.Set(svc.Labels)) && p.Namespaces.Matches(namespace)
}

func (p Pool) contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.Contains(a) })
}

// outside is the pool without the cell's own ranges, whatever their size.
func (p Pool) outside(own []netip.Prefix) Pool {
	for _, prefix := range own {
		var left []Range
		for _, r := range p.Ranges {
			left = append(left, r.without(prefix)...)
		}
		p.Ranges = left
	}
	return p
}

// overlaps says which ranges of the pool reach into the cell's own; empty if
// none does.
func (p Pool) overlaps(own []netip.Prefix) string {
	const most = 3 // are told, the others counted
	var all []string
	for _, r := range p.Ranges {
		for _, prefix := range own {
			if !slices.Equal(r.without(prefix), []Range{r}) {
				all = append(all, fmt.Sprintf("%s-%s overlaps the cell's own range %s", r.First, r.Last, prefix))
			}
		}
	}
	if len(all) == 0 {
		return ""
	}
	if more := len(all) - most; more > 0 {
		all = append(all[:most], fmt.Sprintf("%d more do", more))
	}
	return list(all) + "; services get no address of it, take it out of spec.addresses"
}

// has reports whether the pool has addresses of a family.
func (p Pool) has(family corev1.IPFamily) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return familyOf(r.First) == family })
}

// drawn yields the pool's addresses of a family, each once, beginning where
// the service's uid says: two peers that act for one service draw alike, and
// two services on two sides of a split seldom do.
func (p Pool) drawn(family corev1.IPFamily, uid string) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		var ranges []Range
		var total uint64
		for _, r := range p.Ranges {
			if familyOf(r.First) == family {
				ranges = append(ranges, r)
				total += r.Size()
			}
		}
		if total == 0 {
			return
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(uid))
		start := h.Sum64() % total
		for i := range total {
			n := (start + i) % total
			for _, r := range ranges {
				if n < r.Size() {
					if !yield(r.At(n)) {
						return
					}
					break
				}
				n -= r.Size()
			}
		}
	}
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// sortPools is the order in which pools are drawn from.
func sortPools(pools []Pool) {
	slices.SortFunc(pools, func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) })
}
