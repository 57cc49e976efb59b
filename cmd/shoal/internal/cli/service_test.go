package cli

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func node(ready corev1.ConditionStatus, addresses ...corev1.NodeAddress) corev1.Node {
	return corev1.Node{Status: corev1.NodeStatus{
		Addresses:  addresses,
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

func address(kind corev1.NodeAddressType, value string) corev1.NodeAddress {
	return corev1.NodeAddress{Type: kind, Address: value}
}

func TestHostOf(t *testing.T) {
	inside, outside := corev1.NodeInternalIP, corev1.NodeExternalIP
	tests := map[string]struct {
		nodes []corev1.Node
		want  string
	}{
		"no nodes":      {nil, ""},
		"inside first":  {[]corev1.Node{node("True", address(outside, "192.0.2.1"), address(inside, "10.0.0.1"))}, "10.0.0.1"},
		"ready first":   {[]corev1.Node{node("False", address(inside, "10.0.0.1")), node("True", address(inside, "10.0.0.2"))}, "10.0.0.2"},
		"none is ready": {[]corev1.Node{node("Unknown", address(inside, "10.0.0.1"))}, "10.0.0.1"},
		"outside only":  {[]corev1.Node{node("True", address(outside, "192.0.2.1"))}, "192.0.2.1"},
		"no addresses":  {[]corev1.Node{node("True")}, ""},
		"IPv6":          {[]corev1.Node{node("True", address(inside, "fd00::1"))}, "fd00::1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := hostOf(test.nodes); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOutsideAddresses(t *testing.T) {
	grpc, https := "grpc", "https"
	tests := map[string]struct {
		host  string
		ports []corev1.ServicePort
		want  []string
	}{
		"web port":      {"10.0.0.1", []corev1.ServicePort{{Port: 80, NodePort: 30000}}, []string{"http://10.0.0.1:30000"}},
		"target port":   {"h", []corev1.ServicePort{{Port: 7, TargetPort: intstr.FromInt32(8080), NodePort: 30000}}, []string{"http://h:30000"}},
		"by name":       {"h", []corev1.ServicePort{{Name: "http-admin", Port: 7, NodePort: 30000}}, []string{"http://h:30000"}},
		"tls":           {"h", []corev1.ServicePort{{Port: 443, NodePort: 30000}}, []string{"https://h:30000"}},
		"app protocol":  {"h", []corev1.ServicePort{{Port: 9, AppProtocol: &https, NodePort: 30000}}, []string{"https://h:30000"}},
		"other app":     {"h", []corev1.ServicePort{{Port: 80, AppProtocol: &grpc, NodePort: 30000}}, []string{"h:30000"}},
		"database":      {"h", []corev1.ServicePort{{Port: 5432, NodePort: 30000}}, []string{"h:30000"}},
		"udp":           {"h", []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolUDP, NodePort: 30000}}, []string{"h:30000"}},
		"IPv6":          {"fd00::1", []corev1.ServicePort{{Port: 80, NodePort: 30000}}, []string{"http://[fd00::1]:30000"}},
		"no node port":  {"h", []corev1.ServicePort{{Port: 80}}, nil},
		"several ports": {"h", []corev1.ServicePort{{Port: 80, NodePort: 1}, {Port: 53, NodePort: 2}}, []string{"http://h:1", "h:2"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			service := &corev1.Service{Spec: corev1.ServiceSpec{Ports: test.ports}}
			if got := outsideAddresses(service, test.host); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAddressOfALoadBalancer(t *testing.T) {
	for name, test := range map[string]struct {
		kind    corev1.ServiceType
		ingress []corev1.LoadBalancerIngress
		want    []string
	}{
		"assigned": {corev1.ServiceTypeLoadBalancer, []corev1.LoadBalancerIngress{{IP: "192.0.2.7"}, {IP: "2001:db8::7"}}, []string{"http://192.0.2.7:80", "192.0.2.7:53"}},
		"IPv6":     {corev1.ServiceTypeLoadBalancer, []corev1.LoadBalancerIngress{{IP: "2001:db8::7"}}, []string{"http://[2001:db8::7]:80", "[2001:db8::7]:53"}},
		"by name":  {corev1.ServiceTypeLoadBalancer, []corev1.LoadBalancerIngress{{Hostname: "lb.example"}}, []string{"http://lb.example:80", "lb.example:53"}},
		"none yet": {corev1.ServiceTypeLoadBalancer, nil, []string{"http://h:30000"}},
		"was one":  {corev1.ServiceTypeNodePort, []corev1.LoadBalancerIngress{{IP: "192.0.2.7"}}, []string{"http://h:30000"}},
	} {
		t.Run(name, func(t *testing.T) {
			service := &corev1.Service{
				Spec:   corev1.ServiceSpec{Type: test.kind, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30000}, {Port: 53}}},
				Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: test.ingress}},
			}
			if got := outsideAddresses(service, "h"); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if err := reachableFromOutside(service); err != nil {
				t.Error(err)
			}
			if len(test.ingress) > 0 && test.kind == corev1.ServiceTypeLoadBalancer {
				service.Spec.Ports = []corev1.ServicePort{{Port: 80}} // without ports on the hosts
				if err := reachableFromOutside(service); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestReachableFromOutside(t *testing.T) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "hw", Namespace: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Port: 80}}}}
	err := reachableFromOutside(service)
	if err == nil || !strings.Contains(err.Error(), "ClusterIP") || !strings.Contains(err.Error(), "shoal patch service hw -n web") {
		t.Errorf("error does not say what to do: %v", err)
	}
	service.Spec.Ports[0].NodePort = 30000
	if err := reachableFromOutside(service); err != nil {
		t.Errorf("refused all the same: %v", err)
	}
}

func TestHasReady(t *testing.T) {
	yes, no := true, false
	tests := map[string]struct {
		conditions []*bool
		want       bool
	}{
		"none": {nil, false}, "ready": {[]*bool{&yes}, true}, "not ready": {[]*bool{&no}, false},
		"unknown counts as ready": {[]*bool{nil}, true}, "one of two": {[]*bool{&no, &yes}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			slice := &discoveryv1.EndpointSlice{}
			for _, ready := range test.conditions {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: ready}})
			}
			if got := hasReady(slice); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestBrowserCommand(t *testing.T) {
	screen := map[string]string{"DISPLAY": ":0"}
	tests := map[string]struct {
		system string
		env    map[string]string
		want   string
	}{
		"no screen": {"linux", nil, ""}, "x11": {"linux", screen, "xdg-open"},
		"wayland": {"linux", map[string]string{"WAYLAND_DISPLAY": "w"}, "xdg-open"},
		"macOS":   {"darwin", nil, "open"}, "windows": {"windows", nil, "rundll32"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			command := browserCommand(test.system, func(key string) string { return test.env[key] }, "http://h:1")
			if test.want == "" {
				if command != nil {
					t.Fatalf("opens %q without a screen", command)
				}
				return
			}
			if len(command) < 2 || command[0] != test.want || command[len(command)-1] != "http://h:1" {
				t.Errorf("command is %q, want %s with the page", command, test.want)
			}
		})
	}
}
