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
