package netdp

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A policy holds for both addresses of a pod: what it denies by IPv4 it denies by
// IPv6.
func TestPolicyIPv6(t *testing.T) {
	l := &policyLab{lab: dualLab(t), client: fake.NewClientset()}
	l.d = l.open()
	t.Cleanup(func() {
		l.stop()
		if err := l.d.Remove(); err != nil {
			t.Error(err)
		}
	})
	l.enforce()
	server, _ := l.start(podObject("default", "server", app("db")))
	friend, _ := l.start(podObject("default", "friend", app("web")))
	stranger, _ := l.start(podObject("default", "stranger", app("other")))
	for _, port := range []string{"[::]:80", "[::]:81"} {
		l.serveTCP(server, port, "server")
		l.serveUDP(server, port, "server")
	}
	l.serveTCP(l.outside, "[::]:80", "world")
	six := l.d.pods.byUID["server"].record.Address6
	web, other, world := at6(six, 80), at6(six, 81), "["+labOutsideIP6+"]:80"
	l.expect("without a policy",
		way{"friend", friend, "tcp6", web, true}, way{"stranger by UDP", stranger, "udp6", web, true},
		way{"outside", l.outside, "tcp6", web, true}, way{"stranger to the world", stranger, "tcp6", world, true})

	l.apply(netpol("deny", "", networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress))
	l.expect("default deny of both directions",
		way{"friend", friend, "tcp6", web, false}, way{"stranger by UDP", stranger, "udp6", web, false},
		way{"outside", l.outside, "tcp6", web, false}, way{"the node", l.host, "tcp6", web, true},
		way{"stranger to the world", stranger, "tcp6", world, false}, way{"itself", server, "tcp6", web, true})

	l.remove("default", "deny")
	allow := netpol("allow", "db")
	block := networkingv1.NetworkPolicyIngressRule{
		From:  []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: labOutsideIP6 + "/128"}}},
		Ports: []networkingv1.NetworkPolicyPort{policyPort(81)},
	}
	allow.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{fromPods("web", policyPort(80)), block}
	l.apply(allow)
	l.expect("friends may call port 80, a machine port 81",
		way{"friend", friend, "tcp6", web, true}, way{"friend to another port", friend, "tcp6", other, false},
		way{"stranger", stranger, "tcp6", web, false}, way{"stranger by UDP", stranger, "udp6", web, false},
		way{"outside", l.outside, "tcp6", web, false}, way{"outside to its port", l.outside, "tcp6", other, true})
}
