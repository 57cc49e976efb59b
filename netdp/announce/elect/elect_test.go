package elect

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/api/loadbalancer/v1alpha1"
)

func ptr[T any](v T) *T { return &v }

// slice has endpoints as NODE:CONDITIONS, conditions as letters: r ready, s
// serving, t terminating.
func slice(endpoints ...string) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{}
	for _, e := range endpoints {
		node, conditions, _ := strings.Cut(e, ":")
		has := func(c string) *bool { return ptr(strings.Contains(conditions, c)) }
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: has("r"), Serving: has("s"), Terminating: has("t")}})
	}
	out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{}) // of no node
	return out
}

func TestCandidates(t *testing.T) {
	for _, test := range []struct {
		name      string
		local     bool
		endpoints []string
		excluded  string
		want      string
	}{
		{"every living host", false, nil, "", "a b c"},
		{"but those kept out", false, nil, "b", "a c"},
		{"local: those with a ready endpoint", true, []string{"a:rs", "b:", "c:rs", "dead:rs"}, "", "a c"},
		{"local: nobody has one", true, []string{"dead:rs", "b:t"}, "", ""},
		{"local: one that ends still serves", true, []string{"a:st", "b:t"}, "", "a"},
		{"local: not while another is ready", true, []string{"a:st", "b:rs"}, "", "b"},
		{"local: those kept out", true, []string{"a:rs", "c:rs"}, "a", "c"},
	} {
		t.Run(test.name, func(t *testing.T) {
			svc := &corev1.Service{}
			if test.local {
				svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			}
			got := Candidates(svc, []*discoveryv1.EndpointSlice{slice(test.endpoints...)}, []string{"a", "b", "c"}, map[string]bool{test.excluded: true})
			if strings.Join(got, " ") != test.want {
				t.Errorf("%v, want %s", got, test.want)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	assigned := metav1.Condition{Type: v1alpha1.AddressAssigned, Status: metav1.ConditionTrue}
	s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	s.Status.Conditions = []metav1.Condition{assigned}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
		{IP: "192.0.2.1"}, {IP: "2001:db8::1", IPMode: ptr(corev1.LoadBalancerIPModeVIP)}, {IP: "192.0.2.2", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}, {Hostname: "lb.example"},
	}
	if got := fmt.Sprint(Addresses(s)); got != "[192.0.2.1 2001:db8::1]" {
		t.Errorf("%s", got)
	}
	s.Status.Conditions[0].Status = metav1.ConditionFalse
	if got := Addresses(s); got != nil {
		t.Errorf("addresses of somebody else: %v", got)
	}
	s.Status.Conditions[0].Status, s.Spec.Type = metav1.ConditionTrue, corev1.ServiceTypeNodePort
	if got := Addresses(s); got != nil {
		t.Errorf("addresses of another type: %v", got)
	}
}

// TestAHostThatDiesMovesOnlyItsOwn: all others keep what they announce.
func TestAHostThatDiesMovesOnlyItsOwn(t *testing.T) {
	hosts := []string{"a", "b", "c", "d"}
	survivors := []string{"d", "a", "c"}
	moved := map[string]int{}
	for i := range 256 {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		before, after := Announcer(a, hosts), Announcer(a, survivors)
		if before != "b" && before != after {
			t.Errorf("%s moved from %s to %s though both live", a, before, after)
		}
		if before == "b" {
			moved[after]++
		}
	}
	if len(moved) != len(survivors) {
		t.Errorf("what b had went to %v, want to each of %v", moved, survivors)
	}
	if got := Announcer(netip.MustParseAddr("192.0.2.1"), nil); got != "" {
		t.Errorf("without candidates %q announces", got)
	}
}

func TestOnLink(t *testing.T) {
	links := map[string][]netip.Prefix{
		"a": parseLinks("192.0.2.0/24,2001:db8::/64"), "b": parseLinks("198.51.100.0/24"), "c": parseLinks("192.0.2.0/24"), "dead": parseLinks("203.0.113.0/24"),
	}
	hosts := []string{"a", "b", "c", "unknown"}
	for address, want := range map[string]string{
		"192.0.2.200": "a c", "198.51.100.9": "b", "2001:db8::9": "a",
		"203.0.113.7": "",                       // only a dead host is there
		"192.0.9.1":   strings.Join(hosts, " "), // it is routed
	} {
		if got := strings.Join(OnLink(netip.MustParseAddr(address), hosts, links), " "); got != want {
			t.Errorf("on the link of %s are %q, want %q", address, got, want)
		}
	}
	if got := formatLinks(parseLinks("2001:db8::/64,192.0.2.0/24,nonsense,192.0.2.0/24")); got != "192.0.2.0/24,2001:db8::/64" {
		t.Errorf("written as %q", got)
	}
}
