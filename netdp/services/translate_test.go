package services

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/netdp"
)

func ptr[T any](v T) *T { return &v }

func service(edit ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.0.0.10", ClusterIPs: []string{"10.0.0.10"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

func slice(endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr(""), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(8080))}},
		Endpoints:   endpoints,
	}
}

// endpoint has conditions in kubectl's order: ready, serving, terminating.
func endpoint(addr string, conditions string) discoveryv1.Endpoint {
	ep := discoveryv1.Endpoint{Addresses: []string{addr}}
	for name, c := range map[string]**bool{
		"ready": &ep.Conditions.Ready, "serving": &ep.Conditions.Serving, "terminating": &ep.Conditions.Terminating,
	} {
		if conditions != "unset" {
			*c = ptr(strings.Contains(conditions, name))
		}
	}
	return ep
}

func on(node string, ep discoveryv1.Endpoint) discoveryv1.Endpoint {
	ep.NodeName = &node
	return ep
}

// place is where all is translated for; the node named "failed" does not answer.
var place = Place{Node: "here", Zone: "zone1", Failed: func(node string) bool { return node == "failed" }}

// zoned also says that the endpoint is meant for a zone.
func zoned(zone string, ep discoveryv1.Endpoint) discoveryv1.Endpoint {
	if ep.Hints == nil {
		ep.Hints = &discoveryv1.EndpointHints{}
	}
	ep.Hints.ForZones = append(ep.Hints.ForZones, discoveryv1.ForZone{Name: zone})
	return ep
}

func hinted(node string, ep discoveryv1.Endpoint) discoveryv1.Endpoint {
	ep.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: node}}}
	return ep
}

// render is one line for each port: frontends -> backends.
func render(services []netdp.Service) string {
	var lines []string
	for _, s := range services {
		var front, back []string
		for _, f := range s.Frontends {
			text := f.String()
			if f.Outside {
				text += " outside"
			}
			if f.Filtered {
				text += " filtered"
			}
			front = append(front, text)
		}
		for _, b := range s.Backends {
			text := b.Addr.String()
			if b.Draining {
				text += " draining"
			}
			switch b.Callers {
			case netdp.OnlyInside:
				text += " inside"
			case netdp.OnlyOutside:
				text += " outside"
			}
			back = append(back, text)
		}
		if s.LocalOutside {
			front = append(front, "local")
		}
		if s.AffinitySeconds > 0 {
			front = append(front, fmt.Sprintf("affinity %d s", s.AffinitySeconds))
		}
		if len(s.Sources) > 0 {
			front = append(front, fmt.Sprintf("from %v", s.Sources))
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s -> %s", s.Key, s.Proto, strings.Join(front, ", "), strings.Join(back, ", ")))
	}
	return strings.Join(lines, "\n")
}

func TestTranslate(t *testing.T) {
	named := func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{
			{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, NodePort: 30080},
			{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
			{Name: "sctp", Port: 99, Protocol: corev1.ProtocolSCTP},
		}
	}
	withPorts := func(s *discoveryv1.EndpointSlice, ports ...discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
		s.Ports = ports
		return s
	}
	port := func(name string, proto corev1.Protocol, n int32) discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: &name, Protocol: &proto, Port: &n}
	}
	inside := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	}
	outside := func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Ports[0].NodePort = 30080
	}
	mixed := slice(on("here", endpoint("10.64.0.1", "ready")), on("there", endpoint("10.64.1.1", "ready")), on("there", endpoint("10.64.1.2", "")))
	const one = "default/web:80/TCP TCP: 10.0.0.10:80 -> "
	for _, c := range []struct {
		name   string
		svc    *corev1.Service
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{"no slices", service(), nil, one},
		{"ready", service(), []*discoveryv1.EndpointSlice{slice(endpoint("10.64.0.1", "ready serving"))}, one + "10.64.0.1:8080"},
		{"conditions unset count as ready", service(), []*discoveryv1.EndpointSlice{slice(endpoint("10.64.0.1", "unset"))}, one + "10.64.0.1:8080"},
		{"internal policy local", service(inside), []*discoveryv1.EndpointSlice{mixed}, one +
			"10.64.0.1:8080, 10.64.1.1:8080 outside, 10.64.1.2:8080 draining"},
		{"external policy local", service(outside), []*discoveryv1.EndpointSlice{mixed}, "default/web:80/TCP TCP: 10.0.0.10:80, node port 30080, local -> " +
			"10.64.0.1:8080, 10.64.1.1:8080 inside, 10.64.1.2:8080 draining"},
		{"both policies local", service(inside, outside), []*discoveryv1.EndpointSlice{mixed}, one +
			"10.64.0.1:8080, 10.64.1.1:8080 draining, 10.64.1.2:8080 draining\n" +
			"default/web:80/TCP external TCP: node port 30080, local -> 10.64.0.1:8080, 10.64.1.1:8080 inside, 10.64.1.2:8080 draining"},
		{"the internal policy is of cluster IPs alone", service(inside, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 }),
			[]*discoveryv1.EndpointSlice{mixed}, one + "10.64.0.1:8080, 10.64.1.1:8080 outside, 10.64.1.2:8080 draining\n" +
				"default/web:80/TCP external TCP: node port 30080 -> 10.64.0.1:8080, 10.64.1.1:8080, 10.64.1.2:8080 draining"},
		{"external policy local, none here", service(outside), []*discoveryv1.EndpointSlice{slice(on("there", endpoint("10.64.1.1", "ready")), endpoint("10.64.9.9", "ready"))},
			"default/web:80/TCP TCP: 10.0.0.10:80, node port 30080, local -> 10.64.1.1:8080 inside, 10.64.9.9:8080 inside"},
		{"external policy local, the one here terminates", service(outside), []*discoveryv1.EndpointSlice{slice(
			on("there", endpoint("10.64.1.1", "ready")), on("here", endpoint("10.64.0.1", "serving terminating")))},
			"default/web:80/TCP TCP: 10.0.0.10:80, node port 30080, local -> 10.64.1.1:8080 inside, 10.64.0.1:8080 outside"},
		{"hints for nodes", service(), []*discoveryv1.EndpointSlice{slice(
			hinted("here", endpoint("10.64.0.1", "ready")), hinted("there", endpoint("10.64.1.1", "ready")), endpoint("10.64.1.2", ""))},
			one + "10.64.0.1:8080, 10.64.1.1:8080 draining, 10.64.1.2:8080 draining"},
		{"hints for other nodes only", service(), []*discoveryv1.EndpointSlice{slice(hinted("there", endpoint("10.64.1.1", "ready")))}, one + "10.64.1.1:8080"},
		{"hints on some", service(), []*discoveryv1.EndpointSlice{slice(
			hinted("here", endpoint("10.64.0.1", "ready")), endpoint("10.64.1.1", "ready"))}, one + "10.64.0.1:8080, 10.64.1.1:8080"},
		{"hints for the zone", service(), []*discoveryv1.EndpointSlice{slice(
			zoned("zone1", endpoint("10.64.0.1", "ready")), zoned("zone2", endpoint("10.64.1.1", "ready")))},
			one + "10.64.0.1:8080, 10.64.1.1:8080 draining"},
		{"hints for two zones", service(), []*discoveryv1.EndpointSlice{slice(
			zoned("zone2", zoned("zone1", endpoint("10.64.0.1", "ready"))), zoned("zone1", zoned("zone2", endpoint("10.64.1.1", "ready"))))},
			one + "10.64.0.1:8080, 10.64.1.1:8080"},
		{"hints for the node before those for the zone", service(), []*discoveryv1.EndpointSlice{slice(
			zoned("zone1", hinted("here", endpoint("10.64.0.1", "ready"))), zoned("zone1", hinted("there", endpoint("10.64.1.1", "ready"))))},
			one + "10.64.0.1:8080, 10.64.1.1:8080 draining"},
		{"hints for other nodes, but the zone", service(), []*discoveryv1.EndpointSlice{slice(
			zoned("zone1", hinted("there", endpoint("10.64.0.1", "ready"))), zoned("zone2", hinted("far", endpoint("10.64.1.1", "ready"))))},
			one + "10.64.0.1:8080, 10.64.1.1:8080 draining"},
		{"hints for other zones only", service(), []*discoveryv1.EndpointSlice{slice(
			zoned("zone2", endpoint("10.64.0.1", "ready")), zoned("zone3", endpoint("10.64.1.1", "ready")))},
			one + "10.64.0.1:8080, 10.64.1.1:8080"},
		{"hints do not matter to a local policy", service(inside), []*discoveryv1.EndpointSlice{slice(
			zoned("zone2", on("here", endpoint("10.64.0.1", "ready"))), zoned("zone1", on("there", endpoint("10.64.1.1", "ready"))))},
			one + "10.64.0.1:8080 inside, 10.64.1.1:8080 outside"},
		{"endpoints of a failed host", service(), []*discoveryv1.EndpointSlice{slice(
			on("failed", endpoint("10.64.0.1", "ready")), on("there", endpoint("10.64.1.1", "ready")))}, one + "10.64.1.1:8080"},
		{"all endpoints are of a failed host", service(), []*discoveryv1.EndpointSlice{slice(on("failed", endpoint("10.64.0.1", "ready")))}, one},
		{"one terminates, the others are of a failed host", service(), []*discoveryv1.EndpointSlice{slice(
			on("failed", endpoint("10.64.0.1", "ready")), on("there", endpoint("10.64.1.1", "serving terminating")))}, one + "10.64.1.1:8080"},
		{"affinity", service(func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}}
		}), nil, "default/web:80/TCP TCP: 10.0.0.10:80, affinity 60 s -> "},
		{"affinity without a time", service(func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }), nil,
			"default/web:80/TCP TCP: 10.0.0.10:80, affinity 10800 s -> "},
		{"a time without affinity", service(func(s *corev1.Service) {
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}}
		}), nil, one},
		{"source ranges are for load balancers", service(func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"203.0.113.1"}
			s.Spec.LoadBalancerSourceRanges = []string{" 198.51.100.0/24 ", "2001:db8::/32"}
			s.Spec.Ports[0].NodePort = 30080
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"}}
		}), nil, "default/web:80/TCP TCP: 10.0.0.10:80, 203.0.113.1:80 outside, 203.0.113.2:80 outside filtered, node port 30080, " +
			"from [198.51.100.0/24 2001:db8::/32] -> "},
		{"source ranges that cannot be read admit nobody", service(func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = []string{"nonsense"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"}}
		}), nil, "default/web:80/TCP TCP: 10.0.0.10:80, 203.0.113.2:80 outside filtered -> "},
		{"several slices", service(), []*discoveryv1.EndpointSlice{
			slice(endpoint("10.64.0.1", "ready serving")), slice(endpoint("10.64.0.2", "ready serving")),
		}, one + "10.64.0.1:8080, 10.64.0.2:8080"},
		{"not ready gets nothing new", service(), []*discoveryv1.EndpointSlice{
			slice(endpoint("10.64.0.1", "ready serving"), endpoint("10.64.0.2", "")),
		}, one + "10.64.0.1:8080, 10.64.0.2:8080 draining"},
		{"terminating drains while others are ready", service(), []*discoveryv1.EndpointSlice{
			slice(endpoint("10.64.0.1", "serving terminating"), endpoint("10.64.0.2", "ready serving")),
		}, one + "10.64.0.1:8080 draining, 10.64.0.2:8080"},
		{"terminating serves as the last", service(), []*discoveryv1.EndpointSlice{
			slice(endpoint("10.64.0.1", "serving terminating"), endpoint("10.64.0.2", "terminating")),
		}, one + "10.64.0.1:8080, 10.64.0.2:8080 draining"},
		{"published though not ready, and while it terminates", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }),
			[]*discoveryv1.EndpointSlice{slice(endpoint("10.64.0.1", "ready"), endpoint("10.64.0.2", "ready terminating"))}, // as the controller writes them
			one + "10.64.0.1:8080, 10.64.0.2:8080"},
		{"named ports and protocols", service(named), []*discoveryv1.EndpointSlice{
			withPorts(slice(endpoint("10.64.0.1", "ready serving")), port("http", corev1.ProtocolTCP, 8080), port("dns", corev1.ProtocolUDP, 5353)),
			withPorts(slice(endpoint("10.64.0.2", "ready serving")), port("http", corev1.ProtocolTCP, 9090), port("dns", corev1.ProtocolTCP, 53)),
		}, "default/web:80/TCP TCP: 10.0.0.10:80, node port 30080 -> 10.64.0.1:8080, 10.64.0.2:9090\n" +
			"default/web:53/UDP UDP: 10.0.0.10:53 -> 10.64.0.1:5353"},
		{"addresses for other machines", service(func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"203.0.113.1"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
				{IP: "203.0.113.2"}, {IP: "203.0.113.3", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}, {Hostname: "lb.example"},
			}
		}), nil, "default/web:80/TCP TCP: 10.0.0.10:80, 203.0.113.1:80 outside, 203.0.113.2:80 outside -> "},
		{"dual stack", service(func(s *corev1.Service) {
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00::10")
		}), nil, "default/web:80/TCP TCP: 10.0.0.10:80, [fd00::10]:80 -> "},
		{"endpoints of another family", service(), []*discoveryv1.EndpointSlice{{
			AddressType: discoveryv1.AddressTypeIPv6, Ports: slice().Ports,
			Endpoints: []discoveryv1.Endpoint{endpoint("fd00::1", "ready")},
		}}, one},
		{"nonsense in a slice", service(), []*discoveryv1.EndpointSlice{slice(
			discoveryv1.Endpoint{}, endpoint("nonsense", "ready"), endpoint("10.64.0.1", "ready"),
		), withPorts(slice(endpoint("10.64.0.3", "ready")), discoveryv1.EndpointPort{})}, one + "10.64.0.1:8080"},
		{"headless", service(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), nil, ""},
		{"external name", service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), nil, ""},
		{"no address yet", service(func(s *corev1.Service) { s.Spec.ClusterIP = "" }), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := render(Translate(c.svc, c.slices, place)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// The order in which slices are listed must not matter to what is forwarded.
func TestTranslateIgnoresOrder(t *testing.T) {
	slices1 := []*discoveryv1.EndpointSlice{slice(endpoint("10.64.0.1", "ready")), slice(endpoint("10.64.0.2", "ready"))}
	slices2 := []*discoveryv1.EndpointSlice{slices1[1], slices1[0]}
	a, b := Translate(service(), slices1, place)[0].Backends, Translate(service(), slices2, place)[0].Backends
	byAddr := func(x, y netdp.Backend) int { return x.Addr.Compare(y.Addr) }
	slices.SortFunc(a, byAddr)
	slices.SortFunc(b, byAddr)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%v and %v", a, b)
	}
}

// A service of both families is one entry for each, with its own addresses,
// endpoints and node port.
func TestTranslateDualStack(t *testing.T) {
	both := service(func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		s.Spec.ClusterIPs = []string{"10.0.0.10", "fd00:10::10"}
		s.Spec.ExternalIPs = []string{"2001:db8::7", "192.0.2.7"}
		s.Spec.Ports[0].NodePort = 30080
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.8"}, {IP: "2001:db8::8"}}
	})
	six := slice(endpoint("fd00:64::5", "ready serving"))
	six.AddressType = discoveryv1.AddressTypeIPv6
	got := Translate(both, []*discoveryv1.EndpointSlice{slice(endpoint("10.64.0.5", "ready serving")), six}, Place{Node: "here"})
	want := []string{
		"default/web:80/TCP: [10.0.0.10:80 192.0.2.7:80 192.0.2.8:80 node port 30080] -> [10.64.0.5:8080]",
		"default/web:80/TCP/IPv6: [[fd00:10::10]:80 [2001:db8::7]:80 [2001:db8::8]:80 IPv6 node port 30080] -> [[fd00:64::5]:8080]",
	}
	var lines []string
	for _, s := range got {
		var backends []string
		for _, b := range s.Backends {
			backends = append(backends, b.Addr.String())
		}
		lines = append(lines, fmt.Sprintf("%s: %v -> %v", s.Key, s.Frontends, backends))
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	single := service(func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00:10::10", []string{"fd00:10::10"}
		s.Spec.ExternalIPs = []string{"192.0.2.7"}
	})
	if got := Translate(single, nil, Place{Node: "here"}); len(got) != 1 || len(got[0].Frontends) != 1 || got[0].Frontends[0].Addr.String() != "fd00:10::10" {
		t.Errorf("a service of IPv6 alone became %+v", got)
	}
}

// A service is forwarded when the datapath has all of its keys.
func TestKeys(t *testing.T) {
	svc := service(func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00::10")
		s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
		s.Spec.Ports[0].NodePort = 30080
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "sctp", Port: 99, Protocol: corev1.ProtocolSCTP})
	})
	const want = "[default/web:80/TCP default/web:80/TCP external default/web:80/TCP/IPv6 default/web:80/TCP external/IPv6]"
	if got := fmt.Sprint(Keys(svc)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := Keys(service(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })); len(got) > 0 {
		t.Errorf("a headless service has %v", got)
	}
}
