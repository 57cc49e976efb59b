package prober

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func portOf(t *testing.T, address string) int32 {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(port)
}

func serve(t *testing.T, tls bool) int32 {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/header", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Probe") != "yes" || r.Host != "me" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/local", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/flood", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	server := httptest.NewUnstartedServer(mux)
	if tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return portOf(t, u.Host)
}

func put(p v1.ProbeHandler, ports ...v1.ContainerPort) answer {
	return putFor(time.Minute, p, ports...)
}

func putFor(timeout time.Duration, p v1.ProbeHandler, ports ...v1.ContainerPort) answer {
	q := newQuestion(&Task{Probe: v1.Probe{ProbeHandler: p}, Container: &v1.Container{Name: "c", Ports: ports}, IP: "127.0.0.1"})
	return q(context.Background(), timeout)
}

// TestHTTP asks real servers.
func TestHTTP(t *testing.T) {
	plain, secure := serve(t, false), serve(t, true)
	get := func(path string, change ...func(*v1.HTTPGetAction)) answer {
		a := &v1.HTTPGetAction{Path: path, Port: intstr.FromInt32(plain)}
		for _, c := range change {
			c(a)
		}
		return put(v1.ProbeHandler{HTTPGet: a}, v1.ContainerPort{Name: "web", ContainerPort: plain})
	}
	hangs := func(port int32) answer {
		return putFor(500*time.Millisecond, v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/hang", Port: intstr.FromInt32(port)}})
	}
	header := func(a *v1.HTTPGetAction) {
		a.HTTPHeaders = []v1.HTTPHeader{{Name: "X-Probe", Value: "yes"}, {Name: "Host", Value: "me"}}
	}
	for name, test := range map[string]struct {
		got    answer
		ok     bool
		detail string
	}{
		"plain":                 {get("/ok"), true, ""},
		"a named port":          {get("/ok", func(a *v1.HTTPGetAction) { a.Port = intstr.FromString("web") }), true, ""},
		"a host of its own":     {get("/ok", func(a *v1.HTTPGetAction) { a.Host = "localhost" }), true, ""},
		"headers":               {get("/header", header), true, ""},
		"no headers":            {get("/header"), false, "HTTP probe failed with statuscode: 418"},
		"unverified":            {get("/ok", func(a *v1.HTTPGetAction) { a.Scheme, a.Port = v1.URISchemeHTTPS, intstr.FromInt32(secure) }), true, ""},
		"bad":                   {get("/bad"), false, "HTTP probe failed with statuscode: 503"},
		"a redirect":            {get("/local"), true, ""},
		"a redirect elsewhere":  {get("/away"), true, "Probe terminated redirects"},
		"a server that hangs":   {hangs(plain), false, "context deadline exceeded"},
		"a server that floods":  {get("/flood"), true, ""},
		"nobody there":          {get("/ok", func(a *v1.HTTPGetAction) { a.Port = intstr.FromInt32(1) }), false, "connection refused"},
		"a port without a name": {get("/ok", func(a *v1.HTTPGetAction) { a.Port = intstr.FromString("other") }), false, ""},
	} {
		if test.got.ok != test.ok || !strings.Contains(test.got.detail, test.detail) {
			t.Errorf("%s: %+v, want ok %v, %q", name, test.got, test.ok, test.detail)
		}
	}
	if a := get("/ok", func(a *v1.HTTPGetAction) { a.Port = intstr.FromString("other") }); a.err == nil {
		t.Error("a port that the container does not have is not an error")
	}
	if a := get("/away"); !a.warning {
		t.Error("a redirect to another host is no warning")
	}
}

// TestTCPAndGRPC asks real servers.
func TestTCPAndGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, states := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, states)
	states.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	port := portOf(t, listener.Addr().String())
	askFor := func(timeout time.Duration, port int32, service string) answer {
		return putFor(timeout, v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: port, Service: &service}})
	}
	ask := func(port int32, service string) answer { return askFor(time.Minute, port, service) }
	for name, test := range map[string]struct {
		got    answer
		ok     bool
		detail string
	}{
		"tcp":             {put(v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(port)}}), true, ""},
		"tcp to nobody":   {put(v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(1)}}), false, "connection refused"},
		"grpc":            {ask(port, ""), true, "service healthy"},
		"grpc, sick":      {ask(port, "sick"), false, `service unhealthy (responded with "NOT_SERVING")`},
		"grpc, unknown":   {ask(port, "none"), false, "unknown service"},
		"grpc to nobody":  {askFor(time.Second, 1, ""), false, "failed to connect service"},
		"no handler":      {put(v1.ProbeHandler{}), false, ""},
		"grpc over http1": {askFor(time.Second, serve(t, false), ""), false, "timeout: failed to connect service"},
	} {
		if test.got.ok != test.ok || !strings.Contains(test.got.detail, test.detail) {
			t.Errorf("%s: %+v, want ok %v, %q", name, test.got, test.ok, test.detail)
		}
	}
}

// BenchmarkHTTP is what one question by http costs.
func BenchmarkHTTP(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		b.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		b.Fatal(err)
	}
	q := newQuestion(&Task{IP: "127.0.0.1", Container: &v1.Container{},
		Probe: v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromInt(port)}}}})
	b.ReportAllocs()
	for b.Loop() {
		if a := q(context.Background(), time.Second); !a.ok {
			b.Fatalf("%+v", a)
		}
	}
}

// TestCommandExpanded: a probe's command has the environment's text, and one that
// this makes larger than memory is a probe that cannot be asked.
func TestCommandExpanded(t *testing.T) {
	var ran []string
	ask := func(command ...string) answer {
		return newQuestion(&Task{
			Probe:     v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: command}}},
			Container: &v1.Container{Name: "c", Env: []v1.EnvVar{{Name: "A", Value: strings.Repeat("a", 100_000)}, {Name: "B", Value: "$(A)"}}},
			Exec: func(_ context.Context, command []string, _ time.Duration) (int, string, error) {
				ran = command
				return 0, "", nil
			},
		})(context.Background(), time.Second)
	}
	if a := ask("x", "$(B) $(C) $$(B)"); !a.ok || !slices.Equal(ran, []string{"x", "$(A) $(C) $(B)"}) {
		t.Errorf("ran %q: %+v", ran, a)
	}
	if a := ask("x", strings.Repeat("$(A)", 200_000)); a.err == nil || !strings.Contains(a.err.Error(), "exec.command[1]: 20000000000 bytes") {
		t.Errorf("one argument of 20 GB: %+v", a)
	}
	if a := ask(slices.Repeat([]string{"$(A)"}, 200_000)...); a.err == nil || !strings.Contains(a.err.Error(), "exec.command[20]") {
		t.Errorf("arguments of 20 GB: %+v", a)
	}
}
