package services

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/netdp"
)

var reservedPorts = []Reserved{
	{Proto: netdp.TCP, Port: 6443, What: "API"},
	{Proto: netdp.UDP, Port: 8472, What: "tunnel", Tunnel: true},
	{Proto: netdp.TCP, Port: 30443, What: "gossip"},
}

func withAddress(name, addr string) *corev1.Node {
	n := node(name, corev1.ConditionTrue, "KubeletReady")
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}
	return n
}

func external(port int32, proto corev1.Protocol, addrs ...string) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Spec.ExternalIPs = addrs
		s.Spec.Ports = []corev1.ServicePort{{Port: port, Protocol: proto}}
	})
}

func TestReservedPortsAreNoFrontends(t *testing.T) {
	cell := hostsOf([]*corev1.Node{withAddress("other", "192.0.2.2"), withAddress("third", "2001:db8::3")}, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
	udp := slice(endpoint("192.0.2.2", "ready"), endpoint("192.0.2.9", "ready"))
	udp.Ports[0].Protocol, udp.Ports[0].Port = ptr(corev1.ProtocolUDP), ptr(int32(8472))
	for _, c := range []struct {
		name string
		svc  []netdp.Service
		want string // as render has it
		told string
	}{
		{"hosts' addresses", Translate(external(6443, corev1.ProtocolTCP, "192.0.2.1", "192.0.2.2", "192.0.2.9"), nil, Place{}),
			"default/web:6443/TCP TCP: 10.0.0.10:6443, 192.0.2.9:6443 outside -> ",
			"TCP 192.0.2.1:6443 is of shoal's own API; TCP 192.0.2.2:6443 is of shoal's own API"},
		{"another protocol", Translate(external(6443, corev1.ProtocolUDP, "192.0.2.1"), nil, Place{}),
			"default/web:6443/UDP UDP: 10.0.0.10:6443, 192.0.2.1:6443 outside -> ", ""},
		{"another port", Translate(external(443, corev1.ProtocolTCP, "192.0.2.1"), nil, Place{}),
			"default/web:443/TCP TCP: 10.0.0.10:443, 192.0.2.1:443 outside -> ", ""},
		{"a node port", Translate(service(func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30443 }), nil, Place{}),
			"default/web:80/TCP TCP: 10.0.0.10:80 -> ", "TCP node port 30443 is of shoal's own gossip"},
		{"a hostPort", HostPorts(withPorts(corev1.ContainerPort{HostPort: 6443, ContainerPort: 80}), []netip.Addr{netip.MustParseAddr("192.0.2.1")}),
			"", "TCP 127.0.0.1:6443 is of shoal's own API; TCP 192.0.2.1:6443 is of shoal's own API"},
		{"a tunnel's endpoint", Translate(external(53, corev1.ProtocolUDP), []*discoveryv1.EndpointSlice{udp}, Place{}),
			"default/web:53/UDP UDP: 10.0.0.10:53 -> 192.0.2.9:8472", "endpoint UDP 192.0.2.2:8472 is of shoal's own tunnel"},
		{"the API's endpoint", Translate(service(), []*discoveryv1.EndpointSlice{func() *discoveryv1.EndpointSlice {
			s := slice(endpoint("192.0.2.2", "ready"))
			s.Ports[0].Port = ptr(int32(6443))
			return s
		}()}, Place{}), "default/web:80/TCP TCP: 10.0.0.10:80 -> 192.0.2.2:6443", ""},
	} {
		got, refused := guard(c.svc, reservedPorts, cell)
		if r := render(got); r != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, r, c.want)
		}
		if told := strings.Join(refused, "; "); told != c.told {
			t.Errorf("%s: told %q, want %q", c.name, told, c.told)
		}
	}
}

// A host that joins gets its ports back from services that came before it.
func TestReservedPortsFollowTheHosts(t *testing.T) {
	ctx := t.Context()
	udp := slice(endpoint("192.0.2.2", "ready serving"))
	udp.Name, udp.Labels = "tunnel-1", map[string]string{discoveryv1.LabelServiceName: "tunnel"}
	udp.Ports[0].Protocol, udp.Ports[0].Port = ptr(corev1.ProtocolUDP), ptr(int32(8472))
	tunnel := external(53, corev1.ProtocolUDP)
	tunnel.Name, tunnel.Spec.ClusterIP, tunnel.Spec.ClusterIPs = "tunnel", "10.0.0.11", []string{"10.0.0.11"}
	client := fake.NewClientset(external(6443, corev1.ProtocolTCP, "192.0.2.2"), tunnel, udp)
	r := startWith(t, options(t), client, reservedPorts)
	const web, dns = "default/web:6443/TCP TCP: 10.0.0.10:6443 -> ", "\ndefault/tunnel:53/UDP UDP: 10.0.0.11:53 -> "
	const open = web + dns + "192.0.2.2:8472\ndefault/web:6443/TCP TCP: 192.0.2.2:6443 outside -> "
	r.reaches(open)
	r.must(client.CoreV1().Nodes().Create(ctx, withAddress("other", "192.0.2.2"), metav1.CreateOptions{}))
	r.reaches(web + dns)
	both := r.told() + r.told()
	for _, want := range []string{reasonReserved, "TCP 192.0.2.2:6443 is of shoal's own API", "endpoint UDP 192.0.2.2:8472 is of shoal's own tunnel"} {
		if !strings.Contains(both, want) {
			t.Errorf("the Events say %q, not %q", both, want)
		}
	}
	r.must(client.CoreV1().Nodes().Update(ctx, withAddress("other", "192.0.2.3"), metav1.UpdateOptions{}))
	r.reaches(open)
	r.stop()
	r.must(nil, r.dp.Remove())
}
