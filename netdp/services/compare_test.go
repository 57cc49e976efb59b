package services

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	v1 "shoal/api/control/v1"
	"shoal/netdp"
)

func TestCompare(t *testing.T) {
	at := netip.MustParseAddrPort
	face := func(addr string) netdp.Frontend {
		a := at(addr)
		return netdp.Frontend{Addr: a.Addr(), Port: a.Port()}
	}
	backend := func(addr string, draining bool) netdp.Backend {
		return netdp.Backend{Addr: at(addr), Draining: draining}
	}
	of := func(key string) bool { return keyIsOf(key, "default", "web") }
	want := netdp.Service{Key: "default/web:80/TCP", Proto: netdp.TCP,
		Frontends: []netdp.Frontend{face("10.0.0.10:80"), {Port: 30080}},
		Backends:  []netdp.Backend{backend("10.64.8.1:80", false), backend("10.64.8.2:80", true)}}
	held := func(f netdp.Frontend, key string, b ...netdp.Backend) netdp.Service {
		return netdp.Service{Key: key, Proto: netdp.TCP, Frontends: []netdp.Frontend{f}, Backends: b}
	}
	both := v1.HostService{Name: want.Key,
		Addresses: []v1.HostAddress{{Address: "10.0.0.10:80", Kernel: true, Store: true}, {Address: "node port 30080", Kernel: true, Store: true}},
		Backends: []v1.HostBackend{
			{Address: "10.64.8.1:80", Kernel: v1.BackendActive, Store: v1.BackendActive},
			{Address: "10.64.8.2:80", Kernel: v1.BackendDraining, Store: v1.BackendDraining},
		}}
	for _, c := range []struct {
		name    string
		kernel  []netdp.Service
		want    []netdp.Service
		out     []v1.HostService
		differs bool
	}{
		{"equal", []netdp.Service{held(face("10.0.0.10:80"), want.Key, want.Backends...), held(netdp.Frontend{Port: 30080}, want.Key, want.Backends...)},
			[]netdp.Service{want}, []v1.HostService{both}, false},
		{"left by an earlier daemon", []netdp.Service{held(face("10.0.0.10:80"), "", want.Backends...), held(netdp.Frontend{Port: 30080}, "", want.Backends...)},
			[]netdp.Service{want}, []v1.HostService{both}, false},
		{"not in the kernel", nil, []netdp.Service{want}, []v1.HostService{{Name: want.Key,
			Addresses: []v1.HostAddress{{Address: "10.0.0.10:80", Store: true}, {Address: "node port 30080", Store: true}},
			Backends:  []v1.HostBackend{{Address: "10.64.8.1:80", Store: v1.BackendActive}, {Address: "10.64.8.2:80", Store: v1.BackendDraining}}}}, true},
		{"not in the store", []netdp.Service{held(face("10.0.0.10:80"), want.Key, want.Backends[0])}, nil, []v1.HostService{{Name: want.Key,
			Addresses: []v1.HostAddress{{Address: "10.0.0.10:80", Kernel: true}},
			Backends:  []v1.HostBackend{{Address: "10.64.8.1:80", Kernel: v1.BackendActive}}}}, true},
		{"of another service", []netdp.Service{held(face("10.0.0.9:80"), "default/other:80/TCP", want.Backends[0])}, nil, []v1.HostService{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Compare(c.kernel, c.want, of)
			if !reflect.DeepEqual(got, c.out) {
				t.Errorf("got  %+v\nwant %+v", got, c.out)
			}
			for i := range got {
				if got[i].Differs() != c.differs {
					t.Errorf("differs: %t", got[i].Differs())
				}
			}
		})
	}
}

// The answer is of the kernel and the informers as they are.
func TestComparerOfARunningController(t *testing.T) {
	balanced := service(func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}, {IP: "192.0.2.2"}}
	})
	client := fake.NewClientset(balanced, slice(endpoint("10.64.8.1", "ready serving")))
	r := start(t, options(t), client)
	defer func() { r.must(nil, r.dp.Remove()) }()
	defer r.stop()
	const to = " -> 10.64.8.1:8080"
	r.reaches("default/web:80/TCP TCP: 10.0.0.10:80" + to + "\ndefault/web:80/TCP TCP: 192.0.2.1:80 outside" + to + "\ndefault/web:80/TCP TCP: 192.0.2.2:80 outside" + to)
	comparer := NewComparer(r.controller, r.dp, func(a netip.AddrPort) v1.FlowEnd { return v1.FlowEnd{Pod: "default/" + a.Addr().String()} },
		func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} })
	answer := httptest.NewRecorder()
	comparer.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, v1.ServicesPath+"?namespace=default&name=web", nil))
	var got v1.HostServices
	r.must(nil, json.Unmarshal(answer.Body.Bytes(), &got))
	want := v1.HostServices{Host: "test", Services: []v1.HostService{{Name: "default/web:80/TCP",
		Addresses: []v1.HostAddress{
			{Address: "10.0.0.10:80", Kernel: true, Store: true}, {Address: "192.0.2.1:80", Kernel: true, Store: true, Announced: true}, {Address: "192.0.2.2:80", Kernel: true, Store: true},
		},
		Backends: []v1.HostBackend{{Address: "10.64.8.1:8080", Pod: "default/10.64.8.1", Kernel: v1.BackendActive, Store: v1.BackendActive}}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A service that a full map keeps out has an Event, one, and another when it
// got in.
func TestFullMapsAreTold(t *testing.T) {
	ctx := t.Context()
	opts := options(t)
	opts.Limits = netdp.MapLimits{Services: 8, Frontends: 1, Backends: 8, Slots: 8, MaglevChunks: 8}
	client := fake.NewClientset(service())
	r := start(t, opts, client)
	defer func() { r.must(nil, r.dp.Remove()) }()
	defer r.stop()
	r.reaches("default/web:80/TCP TCP: 10.0.0.10:80 -> ")
	late := service(func(s *corev1.Service) {
		s.Name, s.Spec.ClusterIP, s.Spec.ClusterIPs = "late", "10.0.0.11", []string{"10.0.0.11"}
	})
	svcs := client.CoreV1().Services("default")
	r.must(svcs.Create(ctx, late, metav1.CreateOptions{}))
	if e := r.told(); !strings.HasPrefix(e, "Warning DatapathFull host test does not forward all of this: set service default/late:80/TCP: ") {
		t.Errorf("told %q", e)
	}
	r.must(nil, svcs.Delete(ctx, "web", metav1.DeleteOptions{}))
	r.reaches("default/late:80/TCP TCP: 10.0.0.11:80 -> ")
	if e := r.told(); !strings.HasPrefix(e, "Normal DatapathReady ") {
		t.Errorf("told %q; what is full is told once", e)
	}
}
