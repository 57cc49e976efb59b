package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"shoal/api/loadbalancer/v1alpha1"
)

func ptr[T any](v T) *T { return &v }

func object(name string, addresses ...string) *v1alpha1.AddressPool {
	return &v1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AddressPoolSpec{Addresses: addresses}}
}

func pool(t *testing.T, name string, edit func(*v1alpha1.AddressPoolSpec), addresses ...string) Pool {
	t.Helper()
	o := object(name, addresses...)
	if edit != nil {
		edit(&o.Spec)
	}
	p, err := NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func service(edit ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

func dual(s *corev1.Service) {
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
}

func annotated(name, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations = map[string]string{name: value} }
}

// outcome is one family a word: a kept address, the number of addresses to
// draw, or why there is none.
func outcome(choices []choice, err error) string {
	var refused *refusal
	if errors.As(err, &refused) {
		return refused.reason
	}
	var words []string
	for _, c := range choices {
		switch {
		case c.keep.IsValid():
			words = append(words, "keep "+c.keep.String())
		case c.draw != nil:
			n := 0
			for range c.draw {
				n++
			}
			words = append(words, fmt.Sprintf("draw %d or %s", n, c.none.reason))
		default:
			words = append(words, c.none.reason)
		}
	}
	return strings.Join(words, ", ")
}

func TestPlan(t *testing.T) {
	both := pool(t, "both", nil, "192.0.2.10-192.0.2.12", "2001:db8::1-2001:db8::4")
	byHand := pool(t, "by-hand", func(s *v1alpha1.AddressPoolSpec) { s.AutoAssign = ptr(false) }, "198.51.100.1")
	team := pool(t, "team", func(s *v1alpha1.AddressPoolSpec) {
		s.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
	}, "203.0.113.0/30")
	public := pool(t, "public", func(s *v1alpha1.AddressPoolSpec) {
		s.ServiceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "public", Operator: metav1.LabelSelectorOpExists}}}
	}, "203.0.113.99")
	for _, test := range []struct {
		name      string
		service   *corev1.Service
		pools     []Pool
		namespace labels.Set
		held      string
		taken     string // by a host
		want      string
	}{
		{"no pool at all", service(), nil, nil, "", "", ReasonNoPool},
		{"any", service(), []Pool{both}, nil, "", "", "draw 3 or " + ReasonEmpty},
		{"both families", service(dual), []Pool{both}, nil, "", "", "draw 3 or AddressPoolEmpty, draw 4 or AddressPoolEmpty"},
		{"one family has no pool", service(dual), []Pool{byHand, team}, labels.Set{"team": "a"}, "", "", "draw 2 or AddressPoolEmpty, " + ReasonNoPool},
		{"what it has it keeps", service(), []Pool{both}, nil, "192.0.2.11", "", "keep 192.0.2.11"},
		{"unless the pool is another now", service(), []Pool{both}, nil, "198.51.100.7", "", "draw 3 or AddressPoolEmpty"},
		{"a pool by hand gives nothing by itself", service(), []Pool{byHand}, nil, "", "", ReasonNoPool},
		{"but to whom names it", service(annotated(v1alpha1.WantedPool, "by-hand")), []Pool{both, byHand}, nil, "", "", "draw 1 or AddressPoolEmpty"},
		{"or its address", service(func(s *corev1.Service) { s.Spec.LoadBalancerIP = "198.51.100.1" }), []Pool{both, byHand}, nil, "", "", "draw 1 or AddressTaken"},
		{"a named pool that is not there", service(annotated(v1alpha1.WantedPool, "nowhere")), []Pool{both}, nil, "", "", ReasonNoPool},
		{"a wish by annotation goes first", service(func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.10" }, annotated(v1alpha1.WantedAddresses, "192.0.2.12")), []Pool{both}, nil, "192.0.2.12", "", "keep 192.0.2.12"},
		{"a wish as other software has it", service(dual, annotated("metallb.io/loadBalancerIPs", "2001:db8::3, 192.0.2.12")), []Pool{both}, nil, "192.0.2.12", "", "keep 192.0.2.12, draw 1 or AddressTaken"},
		{"a changed wish", service(annotated(v1alpha1.WantedAddresses, "192.0.2.12")), []Pool{both}, nil, "192.0.2.10", "", "draw 1 or AddressTaken"},
		{"a wish for what no pool has", service(annotated(v1alpha1.WantedAddresses, "192.0.2.99")), []Pool{both}, nil, "", "", ReasonNotInPool},
		{"a wish that is none", service(annotated(v1alpha1.WantedAddresses, "some.host")), []Pool{both}, nil, "", "", ReasonBadWish},
		{"two wishes of one family", service(annotated(v1alpha1.WantedAddresses, "192.0.2.10,192.0.2.11")), []Pool{both}, nil, "", "", ReasonBadWish},
		{"another team's pool", service(), []Pool{team}, labels.Set{"team": "b"}, "", "", ReasonNoPool},
		{"another team's address", service(annotated(v1alpha1.WantedAddresses, "203.0.113.1")), []Pool{team}, labels.Set{"team": "b"}, "", "", ReasonNotInPool},
		{"its team's pool", service(), []Pool{team}, labels.Set{"team": "a"}, "", "", "draw 2 or AddressPoolEmpty"},
		{"a host's own address is not drawn", service(), []Pool{both}, nil, "", "192.0.2.11", "draw 2 or AddressPoolEmpty"},
		{"nor given on demand", service(annotated(v1alpha1.WantedAddresses, "192.0.2.11")), []Pool{both}, nil, "", "192.0.2.11", ReasonInUse},
		{"nor kept", service(), []Pool{both}, nil, "192.0.2.11", "192.0.2.11", "draw 2 or AddressPoolEmpty"},
		{"services without the label", service(), []Pool{public}, nil, "", "", ReasonNoPool},
		{"services with it", service(func(s *corev1.Service) { s.Labels = map[string]string{"public": ""} }), []Pool{public}, nil, "", "", "draw 1 or AddressPoolEmpty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var held []netip.Addr
			used := func(a netip.Addr) string {
				if test.taken == a.String() {
					return "an address of host h"
				}
				return ""
			}
			if test.held != "" {
				held = append(held, netip.MustParseAddr(test.held))
			}
			got := outcome(plan(test.service, held, cell{pools: test.pools, namespace: test.namespace, owner: func(netip.Addr) (string, bool) { return "", false }, used: used}))
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestATakenWishNamesTheOther(t *testing.T) {
	choices, err := plan(service(annotated(v1alpha1.WantedAddresses, "192.0.2.10")), nil, cell{
		pools: []Pool{pool(t, "p", nil, "192.0.2.10")}, owner: func(netip.Addr) (string, bool) { return "shop/front uid-1", true },
		used: func(netip.Addr) string { return "" },
	})
	if err != nil || !strings.Contains(choices[0].none.message, "service shop/front;") {
		t.Errorf("%v, %v: want the other service's name", choices, err)
	}
}

func TestWhatIsOurs(t *testing.T) {
	for _, test := range []struct {
		edit func(*corev1.Service)
		want bool
	}{
		{func(*corev1.Service) {}, true},
		{func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr(v1alpha1.Class) }, true},
		{func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr("example.org/other") }, false},
		{func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, false},
		{func(s *corev1.Service) { s.DeletionTimestamp = ptr(metav1.Now()) }, true}, // until it is gone
	} {
		if s := service(test.edit); isOurs(s) != test.want {
			t.Errorf("%+v: ours is %t", s.Spec, !test.want)
		}
	}
}

// TestDraw: each address of the family comes once, beginning at a place that
// follows from the uid alone and that different uids spread over the pool.
func TestDraw(t *testing.T) {
	p := pool(t, "p", nil, "192.0.2.0-192.0.2.99", "2001:db8::/64", "198.51.100.0-198.51.100.99")
	starts := map[netip.Addr]int{}
	for i := range 1000 {
		uid := types.UID(fmt.Sprint("uid-", i))
		all := slices.Collect(p.drawn(corev1.IPv4Protocol, string(uid)))
		starts[all[0]]++
		if i > 0 {
			continue
		}
		again := slices.Collect(p.drawn(corev1.IPv4Protocol, string(uid)))
		if !slices.Equal(all, again) {
			t.Error("one uid draws in two orders")
		}
		slices.SortFunc(all, netip.Addr.Compare)
		if n := len(slices.Compact(all)); n != 200 {
			t.Errorf("%d different addresses of 200 were drawn", n)
		}
	}
	if len(starts) < 150 {
		t.Errorf("a thousand uids begin at only %d of 200 addresses", len(starts))
	}
	for a := range p.drawn(corev1.IPv6Protocol, "uid") {
		if !p.contains(a) || a.Is4() {
			t.Errorf("%s was drawn", a)
		}
		break // there are 2^32
	}
}

func TestAPoolThatCannotBeReadWholly(t *testing.T) {
	o := object("p", "192.0.2.1", "nonsense", "192.0.2.9-192.0.2.3")
	o.Spec.ServiceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Sometimes"}}}
	p, err := NewPool(o)
	for _, part := range []string{"nonsense", "192.0.2.9-192.0.2.3", "serviceSelector"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not tell of %s", err, part)
		}
	}
	if len(p.Ranges) != 1 || p.serves(service(), nil) {
		t.Errorf("the rest is %+v; want one range, for nobody as long as the selector cannot be read", p)
	}
}
