package netdp

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
)

// netpol is a policy for the pods of app=web, or for all when app is empty.
func netpol(name, app string, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if app != "" {
		p.Spec.PodSelector = *labelled("app", app)
	}
	p.Spec.PolicyTypes = types
	return p
}

func labelled(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

func fromPods(app string, ports ...networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicyIngressRule {
	return networkingv1.NetworkPolicyIngressRule{
		From: []networkingv1.NetworkPolicyPeer{{PodSelector: labelled("app", app)}}, Ports: ports,
	}
}

func policyPort(n int32) networkingv1.NetworkPolicyPort {
	port := intstr.FromInt32(n)
	return networkingv1.NetworkPolicyPort{Port: &port}
}

func app(name string) map[string]string { return map[string]string{"app": name} }

// Real sockets: default deny of ingress, then a rule for some pods and one port.
func TestPolicyIngress(t *testing.T) {
	l := newPolicyLab(t)
	server, ip := l.start(podObject("default", "server", app("db")))
	friend, friendIP := l.start(podObject("default", "friend", app("web")))
	stranger, _ := l.start(podObject("default", "stranger", app("other")))
	for _, port := range []string{":80", ":81"} {
		l.serveTCP(server, port, "server")
		l.serveUDP(server, port, "server")
	}
	l.serveTCP(friend, ":80", "friend")
	addr := ip.String()
	l.expect("without a policy",
		way{"friend", friend, "tcp4", addr + ":80", true},
		way{"stranger", stranger, "tcp4", addr + ":80", true},
		way{"outside", l.outside, "tcp4", addr + ":80", true})

	l.apply(netpol("deny", ""))
	l.expect("default deny",
		way{"friend", friend, "tcp4", addr + ":80", false},
		way{"friend by UDP", friend, "udp4", addr + ":80", false},
		way{"outside", l.outside, "tcp4", addr + ":80", false},
		way{"the node", l.host, "tcp4", addr + ":80", true},
		way{"the node by UDP", l.host, "udp4", addr + ":80", true},
		way{"itself", server, "tcp4", addr + ":80", true},
		way{"server to friend", server, "tcp4", friendIP.String() + ":80", false})

	allow := netpol("allow", "db")
	allow.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{fromPods("web", policyPort(80))}
	l.apply(allow)
	l.expect("friends may call port 80",
		way{"friend", friend, "tcp4", addr + ":80", true},
		way{"friend by UDP", friend, "udp4", addr + ":80", false},
		way{"friend to another port", friend, "tcp4", addr + ":81", false},
		way{"stranger", stranger, "tcp4", addr + ":80", false},
		way{"outside", l.outside, "tcp4", addr + ":80", false},
		way{"server to friend", server, "tcp4", friendIP.String() + ":80", false})

	l.remove("default", "deny")
	l.remove("default", "allow")
	l.expect("without a policy again",
		way{"stranger", stranger, "tcp4", addr + ":80", true},
		way{"outside", l.outside, "tcp4", addr + ":81", true})
}

// Answers of what a pod may call pass, of what it may not nothing does; the node
// is always reached.
func TestPolicyEgress(t *testing.T) {
	l := newPolicyLab(t)
	client, clientIP := l.start(podObject("default", "client", app("web")))
	db, dbIP := l.start(podObject("default", "db", app("db"), corev1.ContainerPort{Name: "sql", Protocol: corev1.ProtocolTCP, ContainerPort: 80}))
	other, otherIP := l.start(podObject("default", "other", app("other")))
	for _, ns := range []namespace{client, db, other, l.host, l.outside} {
		for _, port := range []string{":80", ":81"} {
			l.serveTCP(ns, port, "server")
			l.serveUDP(ns, port, "server")
		}
	}
	p := netpol("egress", "web", networkingv1.PolicyTypeEgress)
	sql := intstr.FromString("sql")
	udp := corev1.ProtocolUDP
	dns := policyPort(81)
	dns.Protocol = &udp
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{
		{To: []networkingv1.NetworkPolicyPeer{{PodSelector: labelled("app", "db")}}, Ports: []networkingv1.NetworkPolicyPort{{Port: &sql}}},
		{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: labOutsideIP + "/32"}}}, Ports: []networkingv1.NetworkPolicyPort{dns}},
	}
	l.must(l.d.SetHosts(nil)) // so that pods call the world in the host's name
	l.apply(p)
	l.expect("egress",
		way{"another pod", client, "tcp4", otherIP.String() + ":80", false},
		way{"the db's named port", client, "tcp4", dbIP.String() + ":80", true},
		way{"another port of the db", client, "tcp4", dbIP.String() + ":81", false},
		way{"the named port by UDP", client, "udp4", dbIP.String() + ":80", false},
		way{"outside, by UDP", client, "udp4", labOutsideIP + ":81", true},
		way{"outside, by TCP", client, "tcp4", labOutsideIP + ":81", false},
		way{"the node", client, "tcp4", labHostIP + ":80", true},
		way{"the node by UDP", client, "udp4", labHostIP + ":80", true},
		way{"called by another pod", other, "tcp4", clientIP.String() + ":80", true},
		way{"called by another pod by UDP", other, "udp4", clientIP.String() + ":80", true},
		way{"called by the node", l.host, "tcp4", clientIP.String() + ":80", true},
		way{"called from outside", l.outside, "tcp4", clientIP.String() + ":80", true})
	service := Service{Key: "db", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 8080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(dbIP, 80)}}}
	l.must(l.d.SetService(service))
	own := Service{Key: "own", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.11"), Port: 8080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(clientIP, 80)}}}
	l.must(l.d.SetService(own))
	l.expect("services are judged by their backends",
		way{"the db's service", client, "tcp4", "10.0.0.10:8080", true},
		way{"its own service", client, "tcp4", "10.0.0.11:8080", true})
}

// Open connections are judged again when policies change, each by the direction
// it was opened in, also those from before any policy.
func TestPolicyAndOpenConnections(t *testing.T) {
	l := newPolicyLab(t)
	server, serverIP := l.start(podObject("default", "server", app("db")))
	friend, _ := l.start(podObject("default", "friend", app("web")))
	stranger, strangerIP := l.start(podObject("default", "stranger", app("other")))
	l.serveTCP(server, ":80", "server")
	l.serveTCP(stranger, ":80", "stranger")
	open := func(from namespace, to netip.Addr) net.Conn {
		c, err := dial(from, "tcp4", to.String()+":80")
		l.must(err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	fromFriend, fromStranger, fromOutside := open(friend, serverIP), open(stranger, serverIP), open(l.outside, serverIP)
	fromNode := open(l.host, serverIP)
	called := open(server, strangerIP)
	check := func(when string, want map[net.Conn]bool) {
		t.Helper()
		names := map[net.Conn]string{fromFriend: "from friend", fromStranger: "from stranger", fromOutside: "from outside",
			fromNode: "from the node", called: "to stranger"}
		l.until(when, func() bool { return answered(fromStranger) == want[fromStranger] })
		for c, name := range names {
			if want[c] { // what was not answered for a while is sent again later
				l.until(when+": "+name, func() bool { return answered(c) })
				continue
			}
			l.until(when+": "+name+" is cut", func() bool {
				return !answeredWithin(c, refusedAfter) && !answeredWithin(c, 2*refusedAfter)
			})
		}
	}
	check("without policies", map[net.Conn]bool{fromFriend: true, fromStranger: true, fromOutside: true, fromNode: true, called: true})
	p := netpol("db", "db", networkingv1.PolicyTypeIngress)
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{fromPods("web")}
	l.apply(p)
	check("ingress of friends", map[net.Conn]bool{fromFriend: true, fromNode: true, called: true})
	q := netpol("out", "db", networkingv1.PolicyTypeEgress)
	l.apply(q)
	l.until("egress is denied", func() bool { return !answered(called) })
	check("and no egress", map[net.Conn]bool{fromFriend: true, fromNode: true})
	l.remove("default", "out")
	l.remove("default", "db")
	check("none again", map[net.Conn]bool{fromFriend: true, fromStranger: true, fromOutside: true, fromNode: true, called: true})
}

// A pod's labels decide, and they may change.
func TestPolicyFollowsLabels(t *testing.T) {
	l := newPolicyLab(t)
	server, ip := l.start(podObject("default", "server", app("db")))
	obj := podObject("default", "client", app("web"))
	client, _ := l.start(obj)
	l.serveTCP(server, ":80", "server")
	p := netpol("db", "db")
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{fromPods("web"),
		{From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: labelled("team", "a")}}}}
	l.apply(p)
	relabel := func(name string, labels map[string]string) {
		got, err := l.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		l.must(err)
		got.Labels = labels
		_, err = l.client.CoreV1().Pods("default").Update(context.Background(), got, metav1.UpdateOptions{})
		l.must(err)
	}
	to := ip.String() + ":80"
	l.expect("outside is refused", way{"outside", l.outside, "tcp4", to, false}, way{"client", client, "tcp4", to, true})
	relabel("client", app("other"))
	l.expect("the client is another", way{"client", client, "tcp4", to, false})
	team := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "a"}}}
	_, err := l.client.CoreV1().Namespaces().Create(context.Background(), team, metav1.CreateOptions{})
	l.must(err)
	l.expect("its namespace may", way{"client", client, "tcp4", to, true})
	team.Labels = nil
	_, err = l.client.CoreV1().Namespaces().Update(context.Background(), team, metav1.UpdateOptions{})
	l.must(err)
	l.expect("its namespace may not", way{"client", client, "tcp4", to, false})
	relabel("server", app("free"))
	l.expect("the server is another", way{"client", client, "tcp4", to, true}, way{"outside", l.outside, "tcp4", to, true})
}

// A new pod is not reached before its policies are known, except by the node.
func TestPolicyHoldsNewPods(t *testing.T) {
	l := newPolicyLab(t)
	client, clientIP := l.start(podObject("default", "client", app("web")))
	l.serveTCP(client, ":80", "client")
	l.expect("at once, where the API knows the pod", way{"itself", l.host, "tcp4", clientIP.String() + ":80", true})
	obj := podObject("default", "late", app("db"))
	obj.ResourceVersion = "unknown"
	late, ip := l.attach(l.d, obj)
	l.serveTCP(late, ":80", "late")
	l.expect("held",
		way{"client", client, "tcp4", ip.String() + ":80", false},
		way{"outside", l.outside, "tcp4", ip.String() + ":80", false},
		way{"the node", l.host, "tcp4", ip.String() + ":80", true},
		way{"out", late, "tcp4", clientIP.String() + ":80", false})
	obj.ResourceVersion = ""
	l.create(obj)
	l.expect("its object is there",
		way{"client", client, "tcp4", ip.String() + ":80", true},
		way{"out", late, "tcp4", clientIP.String() + ":80", true})
}

// The kernel goes on without a daemon; a new one takes away what is gone only
// when it knows everything.
func TestPolicyOutlivesTheDaemon(t *testing.T) {
	l := newPolicyLab(t)
	server, ip := l.start(podObject("default", "server", app("db")))
	friend, _ := l.start(podObject("default", "friend", app("web")))
	stranger, _ := l.start(podObject("default", "stranger", app("other")))
	l.serveTCP(server, ":80", "server")
	p := netpol("db", "db")
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{fromPods("web")}
	l.apply(p)
	to := ip.String() + ":80"
	ways := []way{{"stranger", stranger, "tcp4", to, false}, {"friend", friend, "tcp4", to, true}}
	l.expect("in effect", ways...)
	c, err := dial(friend, "tcp4", to)
	l.must(err)
	defer c.Close()
	l.stop()
	l.must(l.d.Close())
	l.expect("without a daemon", ways...)
	l.remove("default", "db") // while nobody watches
	l.d = l.open()
	l.expect("a new one that knows nothing yet", ways...)
	if !answeredWithin(c, ioTimeout) {
		t.Error("the open connection is cut")
	}
	l.enforce()
	l.expect("it knows", way{"stranger", stranger, "tcp4", to, true})
	if !answeredWithin(c, ioTimeout) {
		t.Error("the open connection is cut by the new daemon")
	}
	l.d.policyMu.Lock()
	left := map[string]int{"rules": len(l.d.policy.rules.have), "ports": len(l.d.policy.ports.have), "subjects": len(l.d.policy.subjects.have)}
	l.d.policyMu.Unlock()
	for name, n := range left {
		if n != 0 {
			t.Errorf("%d %s are left", n, name)
		}
	}
	for _, uid := range []string{"server", "friend", "stranger"} {
		l.must(l.d.Detach(context.Background(), uid))
		l.must(l.client.CoreV1().Pods("default").Delete(context.Background(), uid, metav1.DeleteOptions{}))
	}
	l.until("only the node's addresses are left", func() bool {
		l.d.policyMu.Lock()
		defer l.d.policyMu.Unlock()
		return len(l.d.policy.peers.have) == len(l.d.policy.nodes)
	})
}

// Pods of other hosts are known by their address, whatever way leads there; a
// host that passes on a call in its own name is who calls.
func TestPolicyAcrossHosts(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.meet()
	client := fake.NewClientset()
	p := &policyLab{lab: c.lab, client: client}
	pods := map[string]cellPod{}
	for _, h := range c.hosts {
		stop := startPolicy(c.lab, h.dp, client)
		t.Cleanup(stop)
		for _, role := range []string{"db", "web", "other"} {
			obj := podObject("default", role+"-"+h.name, app(role))
			p.create(obj)
			ns, ip := p.attach(h.dp, obj)
			pods[obj.Name] = cellPod{h, ns, ip}
			c.serveTCP(ns, ":80", obj.Name)
		}
	}
	allow := netpol("db", "db", networkingv1.PolicyTypeIngress)
	allow.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{fromPods("web", policyPort(80))}
	p.apply(allow)
	check := func(when string, allowed func(from, to string) bool) {
		t.Helper()
		for _, h := range []*cellHost{c.hosts[0], c.hosts[2]} {
			to := "db-" + h.name
			for name, from := range pods {
				if name == to {
					continue
				}
				w := way{name + " to " + to, from.ns, "tcp4", pods[to].ip.String() + ":80", allowed(name, to)}
				p.expect(when, w)
			}
			p.expect(when, way{"its node", h.host, "tcp4", pods[to].ip.String() + ":80", true})
			for _, other := range c.hosts {
				if other != h {
					p.expect(when, way{other.name + " to " + to, other.host, "tcp4", pods[to].ip.String() + ":80", allowed(other.name, to)})
				}
			}
		}
	}
	check("ingress", func(from, _ string) bool { return strings.HasPrefix(from, "web") })
	deny := netpol("out", "web", networkingv1.PolicyTypeEgress)
	p.apply(deny)
	check("and no egress", func(string, string) bool { return false })
	p.remove("default", "out")

	// A node port of near1 whose backend is on near2: the caller is near1.
	db := pods["db-near2"]
	for _, h := range c.hosts {
		l := Service{Key: "db", Proto: TCP, Frontends: []Frontend{{Port: 30080}}, Backends: []Backend{{Addr: netip.AddrPortFrom(db.ip, 80)}}}
		p.must(h.dp.SetService(l))
	}
	near1, near2 := c.hosts[0].ip.String(), c.hosts[1].ip.String()
	p.expect("node ports", way{"outside by near1", c.outside, "tcp4", near1 + ":30080", false}, way{"outside by near2", c.outside, "tcp4", near2 + ":30080", false})
	allow.Spec.Ingress[0].From = append(allow.Spec.Ingress[0].From, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: near1 + "/32"}})
	p.apply(allow)
	p.expect("the passing host may", way{"outside by near1", c.outside, "tcp4", near1 + ":30080", true}, way{"outside by near2", c.outside, "tcp4", near2 + ":30080", false})
	allow.Spec.Ingress[0].From[1].IPBlock.CIDR = cellOutside + "/32"
	p.apply(allow)
	p.expect("the caller may", way{"outside by near2", c.outside, "tcp4", near2 + ":30080", true}, way{"outside by near1", c.outside, "tcp4", near1 + ":30080", false})
}
