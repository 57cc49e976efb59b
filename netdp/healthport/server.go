package healthport

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// maxConnections is how many load balancers may ask one port at once.
	maxConnections = 64
	// askWithin bounds a question and its answer, idleFor a connection between
	// two questions.
	askWithin, idleFor = 5 * time.Second, 10 * time.Second
	// maxHeader is far more than a load balancer sends.
	maxHeader = 8 << 10
)

// server answers on one port.
type server struct {
	namespace, name string
	port            int32
	local           atomic.Int64 // endpoints of this host
	healthy         atomic.Value // of func() bool: this host forwards to the service
	http            *http.Server
	done            chan struct{}
}

// answer is the body, in kube-proxy's form.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

// serve opens the port on all addresses of the host.
func serve(ctx context.Context, s *server) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(s.port))))
	if err != nil {
		return fmt.Errorf("open health-check port %d of service %s/%s: %w", s.port, s.namespace, s.name, err)
	}
	s.http = &http.Server{
		Handler: s, ReadTimeout: askWithin, WriteTimeout: askWithin, IdleTimeout: idleFor, MaxHeaderBytes: maxHeader,
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		_ = s.http.Serve(netutil.LimitListener(l, maxConnections)) // it ends with close
	}()
	return nil
}

// close closes the port and ends what is asked.
func (s *server) close() {
	_ = s.http.Close()
	<-s.done
}

func (s *server) isHealthy() bool {
	healthy, ok := s.healthy.Load().(func() bool)
	return ok && healthy()
}

// ServeHTTP implements http.Handler, on any path.
func (s *server) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	var a answer
	a.Service.Namespace, a.Service.Name = s.namespace, s.name
	a.LocalEndpoints, a.ServiceProxyHealthy = s.local.Load(), s.isHealthy()
	body, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(a.LocalEndpoints, 10))
	if a.LocalEndpoints == 0 || !a.ServiceProxyHealthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body) // who asked may be gone
}
