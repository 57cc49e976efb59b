package healthport

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"shoal/test/eventually"
)

func ptr[T any](v T) *T { return &v }

func service(port int32, edit ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: port,
		},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

// slice has one endpoint a word: ADDRESS@NODE, with a dash before if not ready.
func slice(name string, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	for _, e := range endpoints {
		text, notReady := strings.CutPrefix(e, "-")
		addr, node, _ := strings.Cut(text, "@")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{addr}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: ptr(!notReady), Serving: ptr(true), Terminating: &notReady},
		})
	}
	return s
}

func TestCount(t *testing.T) {
	two := slice("web-1", "10.64.0.1@here", "10.64.0.2@here", "-10.64.0.3@here", "10.64.1.1@there")
	two.Endpoints[0].TargetRef = &corev1.ObjectReference{UID: "pod-1"}
	two.Endpoints = append(two.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.64.0.9"}}) // of no node
	six := slice("web-2", "fd00::1@here")
	six.Endpoints[0].TargetRef = &corev1.ObjectReference{UID: "pod-1"}
	if n := Count([]*discoveryv1.EndpointSlice{two, six}, "here"); n != 2 {
		t.Errorf("%d local endpoints, want the two pods that are ready, each once", n)
	}
}

func freePort(t *testing.T) (net.Listener, int32) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	return l, int32(l.Addr().(*net.TCPAddr).Port)
}

// ask is what a load balancer sees: the status and the local endpoints.
func ask(port int32) string {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port))
	if err != nil {
		return "no answer"
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	var a struct {
		Service             struct{ Namespace, Name string }
		LocalEndpoints      int
		ServiceProxyHealthy bool
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Sprintf("%s: %v", body, err)
	}
	return fmt.Sprintf("%d %s/%s %d %t %s", response.StatusCode, a.Service.Namespace, a.Service.Name, a.LocalEndpoints, a.ServiceProxyHealthy,
		response.Header.Get("X-Load-Balancing-Endpoint-Weight"))
}

func becomes(t *testing.T, port int32, want string) {
	t.Helper()
	eventually.True(t, fmt.Sprintf("port %d answers %q", port, want), func() bool { return ask(port) == want })
}

func TestPortsFollowTheAPI(t *testing.T) {
	blocker, port := freePort(t)
	client := fake.NewClientset(service(port), slice("web-1", "10.64.0.1@here", "10.64.1.1@there"))
	factory := informers.NewSharedInformerFactory(client, 0)
	var forwards atomic.Bool
	forwards.Store(true)
	events := record.NewFakeRecorder(100)
	c, err := New(factory, "here", func(*corev1.Service) bool { return forwards.Load() }, events, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
		if got := ask(port); got != "no answer" {
			t.Errorf("after the end: %s", got)
		}
	}()

	// A process has the port; the Event names it, and the port opens once free.
	select {
	case e := <-events.Events:
		if !strings.Contains(e, ReasonNoPort) || !strings.Contains(e, fmt.Sprint(port)) || !strings.Contains(e, "node here") {
			t.Errorf("event %q", e)
		}
	case <-time.After(time.Minute):
		t.Fatal("no event about a port that is taken")
	}
	blocker.Close()
	becomes(t, port, "200 shop/web 1 true 1")

	slices, services := client.DiscoveryV1().EndpointSlices("shop"), client.CoreV1().Services("shop")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(slices.Update(ctx, slice("web-1", "10.64.0.1@here", "10.64.0.2@here"), metav1.UpdateOptions{}))
	becomes(t, port, "200 shop/web 2 true 2")
	forwards.Store(false)
	becomes(t, port, "503 shop/web 2 false 2")
	forwards.Store(true)
	must(slices.Update(ctx, slice("web-1", "-10.64.0.1@here", "10.64.1.1@there"), metav1.UpdateOptions{}))
	becomes(t, port, "503 shop/web 0 true 0")

	free, other := freePort(t)
	free.Close()
	must(services.Update(ctx, service(other), metav1.UpdateOptions{}))
	becomes(t, other, "503 shop/web 0 true 0")
	becomes(t, port, "no answer")
	must(services.Update(ctx, service(other, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster }), metav1.UpdateOptions{}))
	becomes(t, other, "no answer")
	must(services.Update(ctx, service(port), metav1.UpdateOptions{}))
	becomes(t, port, "503 shop/web 0 true 0")
	must(nil, services.Delete(ctx, "web", metav1.DeleteOptions{}))
	becomes(t, port, "no answer")
}

// Callers that hold connections open do not keep a port from its other callers
// for longer than a connection may last.
func TestAPortIsBounded(t *testing.T) {
	l, port := freePort(t)
	l.Close()
	s := &server{namespace: "shop", name: "web", port: port}
	s.healthy.Store(func() bool { return true })
	s.local.Store(1)
	if err := serve(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for range maxConnections + 10 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	becomes(t, port, "200 shop/web 1 true 1")
}
