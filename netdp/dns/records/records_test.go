package records

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

func svc(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: ports},
	}
}

// slice has endpoints: each is an address with an optional hostname; one that begins with "!" is
// not ready.
func slice(of string, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: of}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)},
			{Name: ptr(""), Port: ptr(int32(9)), Protocol: ptr(corev1.ProtocolUDP)},
		},
	}
	for _, text := range endpoints {
		text, notReady := strings.CutPrefix(text, "!")
		addr, host, _ := strings.Cut(text, " ")
		e := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(!notReady)}}
		if host != "" {
			e.Hostname = &host
		}
		if strings.Contains(addr, ":") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func filled() *Index {
	x := New("Cluster.Local.", netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.64.0.0/10"))
	x.SetServer(netip.MustParseAddr("10.0.0.10"))
	x.SetNamespace("default", true)
	x.SetNamespace("empty", true)
	web := svc("web", "10.0.3.1",
		corev1.ServicePort{Name: "http", Port: 80}, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, corev1.ServicePort{Port: 1})
	x.SetService(web, []*discoveryv1.EndpointSlice{slice("web", "10.64.1.9")})
	dual := svc("dual", "10.0.3.2")
	dual.Spec.ClusterIPs = []string{"10.0.3.2", "fd00::3"}
	x.SetService(dual, nil)
	headless := svc("db", corev1.ClusterIPNone, corev1.ServicePort{Name: "http", Port: 80})
	x.SetService(headless, []*discoveryv1.EndpointSlice{
		slice("db", "10.64.1.2 db-1", "10.64.1.1 db-0", "!10.64.1.3 db-2", "192.0.2.7"), slice("db", "fd01::1 db-0"), slice("db", "10.64.1.1 db-0"),
	})
	early := svc("early", corev1.ClusterIPNone)
	early.Spec.PublishNotReadyAddresses = true
	x.SetService(early, []*discoveryv1.EndpointSlice{slice("early", "!10.64.1.4 e-0")})
	x.SetService(svc("none", corev1.ClusterIPNone), []*discoveryv1.EndpointSlice{slice("none", "!10.64.1.5")})
	out := svc("out", "")
	out.Spec.Type, out.Spec.ExternalName = corev1.ServiceTypeExternalName, "WWW.example.com"
	x.SetService(out, nil)
	x.MovePod("default", nil, []netip.Addr{netip.MustParseAddr("10.64.1.8"), netip.MustParseAddr("fd01::8")})
	return x
}

// lookups of the schema: what is asked, and the data of the answers in order of
// text; NXDOMAIN, NODATA, or FOREIGN for what others know.
var lookups = []struct{ question, want string }{
	{"dns-version.cluster.local. TXT", `"1.1.0"`}, // 2.2
	{"dns-version.cluster.local. A", "NODATA"},
	{"web.default.svc.cluster.local. A", "10.0.3.1"}, // 2.3.1
	{"web.default.svc.cluster.local. AAAA", "NODATA"},
	{"dual.default.svc.cluster.local. AAAA", "fd00::3"},
	{"dual.default.svc.cluster.local. A", "10.0.3.2"},
	{"_http._tcp.web.default.svc.cluster.local. SRV", "0 100 80 web.default.svc.cluster.local. +10.0.3.1"}, // 2.3.2
	{"_dns._udp.web.default.svc.cluster.local. SRV", "0 100 53 web.default.svc.cluster.local. +10.0.3.1"},
	{"_dns._tcp.web.default.svc.cluster.local. SRV", "NXDOMAIN"},
	{"_http._tcp.web.default.svc.cluster.local. A", "NODATA"},
	{"_tcp.web.default.svc.cluster.local. SRV", "NODATA"}, // RFC 8020: something is below
	{"_sctp.web.default.svc.cluster.local. SRV", "NXDOMAIN"},
	{"_._tcp.web.default.svc.cluster.local. SRV", "NXDOMAIN"},
	{"1.3.0.10.in-addr.arpa. PTR", "web.default.svc.cluster.local."}, // 2.3.3
	{"1.3.0.10.in-addr.arpa. A", "NODATA"},
	{"3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR", "dual.default.svc.cluster.local."},
	{"db.default.svc.cluster.local. A", "10.64.1.1 10.64.1.2 192.0.2.7"}, // 2.4.1
	{"db.default.svc.cluster.local. AAAA", "fd01::1"},
	{"db-0.db.default.svc.cluster.local. A", "10.64.1.1"},
	{"db-0.db.default.svc.cluster.local. AAAA", "fd01::1"},
	{"db-2.db.default.svc.cluster.local. A", "NXDOMAIN"}, // not ready
	{"192-0-2-7.db.default.svc.cluster.local. A", "192.0.2.7"},
	{"10-64-1-9.web.default.svc.cluster.local. A", "10.64.1.9"},
	{"early.default.svc.cluster.local. A", "10.64.1.4"},
	{"e-0.early.default.svc.cluster.local. A", "10.64.1.4"},
	{"none.default.svc.cluster.local. A", "NXDOMAIN"},
	{"_http._tcp.db.default.svc.cluster.local. SRV", "0 100 8080 192-0-2-7.db.default.svc.cluster.local. " + // 2.4.2
		"0 100 8080 db-0.db.default.svc.cluster.local. 0 100 8080 db-1.db.default.svc.cluster.local. +10.64.1.1 +10.64.1.2 +192.0.2.7 +fd01::1"},
	{"1.1.64.10.in-addr.arpa. PTR", "db-0.db.default.svc.cluster.local."}, // 2.4.3
	{"7.2.0.192.in-addr.arpa. PTR", "192-0-2-7.db.default.svc.cluster.local."},
	{"3.1.64.10.in-addr.arpa. PTR", "NXDOMAIN"}, // in the cell's range
	{"8.2.0.192.in-addr.arpa. PTR", "FOREIGN"},
	{"0.10.in-addr.arpa. PTR", "FOREIGN"},
	{"x.0.0.10.in-addr.arpa. PTR", "FOREIGN"},
	{"out.default.svc.cluster.local. A", "www.example.com. >www.example.com."}, // 2.5
	{"out.default.svc.cluster.local. CNAME", "www.example.com."},
	{"x.out.default.svc.cluster.local. A", "NXDOMAIN"},
	{"10-64-1-8.default.pod.cluster.local. A", "10.64.1.8"}, // 2.6
	{"10-64-1-8.default.pod.cluster.local. AAAA", "NODATA"},
	{"fd01--8.default.pod.cluster.local. AAAA", "fd01::8"},
	{"10-64-1-8.empty.pod.cluster.local. A", "NXDOMAIN"},
	{"10-64-1-200.default.pod.cluster.local. A", "NXDOMAIN"},
	{"x.default.pod.cluster.local. A", "NXDOMAIN"},
	{"cluster.local. NS", "ns.dns.cluster.local. +10.0.0.10"},
	{"cluster.local. SOA", "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"},
	{"cluster.local. A", "NODATA"},
	{"ns.dns.cluster.local. A", "10.0.0.10"},
	{"svc.cluster.local. A", "NODATA"},
	{"pod.cluster.local. A", "NODATA"},
	{"empty.svc.cluster.local. A", "NODATA"},
	{"empty.pod.cluster.local. A", "NODATA"},
	{"nowhere.svc.cluster.local. A", "NXDOMAIN"},
	{"web.nowhere.svc.cluster.local. A", "NXDOMAIN"},
	{"nobody.default.svc.cluster.local. A", "NXDOMAIN"},
	{"a.b.c.d.e.svc.cluster.local. A", "NXDOMAIN"},
	{"web.cluster.local. A", "NXDOMAIN"},
	{"mycluster.local. A", "FOREIGN"},
	{"local. A", "FOREIGN"},
	{". NS", "FOREIGN"},
}

func TestSchema(t *testing.T) {
	x := filled()
	for _, l := range lookups {
		if got := ask(x, l.question); got != l.want {
			t.Errorf("%s\n got %s\nwant %s", l.question, got, l.want)
		}
	}
}

func ask(x *Index, question string) string {
	name, qtype, _ := strings.Cut(question, " ")
	a := x.Lookup(name, dns.StringToType[qtype])
	switch {
	case !a.Ours:
		return "FOREIGN"
	case a.Authority == nil || a.Authority.Header().Rrtype != dns.TypeSOA:
		return "there is no SOA record"
	case !a.Exists && len(a.Records) == 0:
		return "NXDOMAIN"
	case len(a.Records) == 0:
		return "NODATA"
	}
	var data, extra []string
	for _, rr := range a.Records {
		data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
		if rr.Header().Name != name || rr.Header().Ttl != TTL {
			data = append(data, "BAD HEADER")
		}
	}
	for _, rr := range a.Extra {
		extra = append(extra, "+"+strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(data)
	slices.Sort(extra)
	if a.Alias != "" {
		extra = append(extra, ">"+a.Alias)
	}
	return strings.Join(append(data, extra...), " ")
}

// TestChanges: what is taken away is gone, in every index.
func TestChanges(t *testing.T) {
	x := filled()
	version := x.Version()
	x.SetService(svc("dual", "10.0.3.2"), nil)
	if x.Version() == version {
		t.Error("a service lost an address and the version stayed")
	}
	version = x.Version()
	x.SetService(svc("dual", "10.0.3.2"), nil)
	if x.Version() != version {
		t.Error("nothing changed and the version did")
	}
	x.DeleteService("default", "db")
	x.DeleteService("default", "web")
	x.DeleteService("default", "dual")
	x.DeleteService("default", "early")
	x.DeleteService("default", "nobody")
	x.SetNamespace("empty", false)
	pod := []netip.Addr{netip.MustParseAddr("10.64.1.8")}
	x.MovePod("default", nil, pod) // a second one, with the host's network
	x.MovePod("default", pod, nil)
	for question, want := range map[string]string{
		"db-0.db.default.svc.cluster.local. A":   "NXDOMAIN",
		"1.1.64.10.in-addr.arpa. PTR":            "NXDOMAIN",
		"7.2.0.192.in-addr.arpa. PTR":            "FOREIGN",
		"1.3.0.10.in-addr.arpa. PTR":             "NXDOMAIN",
		"empty.svc.cluster.local. A":             "NXDOMAIN",
		"10-64-1-8.default.pod.cluster.local. A": "10.64.1.8",
	} {
		if got := ask(x, question); got != want {
			t.Errorf("%s: got %s, want %s", question, got, want)
		}
	}
	x.MovePod("default", pod, nil)
	if got := ask(x, "10-64-1-8.default.pod.cluster.local. A"); got != "NXDOMAIN" {
		t.Errorf("a pod that is gone: %s", got)
	}
	if len(x.names) != 0 {
		t.Errorf("names are left: %v", x.names)
	}
}

// TestSharedAddress: two services name one endpoint, and one of them goes.
func TestSharedAddress(t *testing.T) {
	x := New("cluster.local")
	for _, name := range []string{"a", "b"} {
		x.SetService(svc(name, corev1.ClusterIPNone), []*discoveryv1.EndpointSlice{slice(name, "10.64.1.1 host")})
	}
	if got, want := ask(x, "1.1.64.10.in-addr.arpa. PTR"), "host.a.default.svc.cluster.local. host.b.default.svc.cluster.local."; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	x.DeleteService("default", "a")
	if got, want := ask(x, "1.1.64.10.in-addr.arpa. PTR"), "host.b.default.svc.cluster.local."; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
