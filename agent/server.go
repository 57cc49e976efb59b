package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// streamIdle closes exec, attach and port-forward streams on which
	// nothing moves, as the kubelet does.
	streamIdle   = 4 * time.Hour
	streamCreate = 30 * time.Second
	// shutdownGrace is how long requests in flight may take when the agent
	// stops; followed logs and open terminals are cut after it.
	shutdownGrace = time.Second
	headerTimeout = 10 * time.Second
	// connIdle closes connections that nothing is asked on, as the kubelet does.
	connIdle = 90 * time.Second
)

// serve answers the kubelet's API until ctx ends.
func (a *Agent) serve(ctx context.Context) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler: a.callers.guard(a.handler()), TLSConfig: a.o.TLS, ReadHeaderTimeout: headerTimeout, IdleTimeout: connIdle,
		BaseContext: func(net.Listener) context.Context { return requests },
	}
	done := make(chan error, 1)
	go func() {
		if a.o.TLS == nil {
			done <- server.Serve(a.listen)
			return
		}
		done <- server.ServeTLS(a.listen, "", "")
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		cut()
		_ = server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	mux.HandleFunc("GET /pods", a.servePods)
	mux.HandleFunc("GET /runningpods/", a.servePods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	for _, method := range []string{"GET ", "POST "} {
		mux.HandleFunc(method+"/exec/{namespace}/{pod}/{container}", a.serveExec)
		mux.HandleFunc(method+"/exec/{namespace}/{pod}/{uid}/{container}", a.serveExec)
		mux.HandleFunc(method+"/attach/{namespace}/{pod}/{container}", a.serveAttach)
		mux.HandleFunc(method+"/attach/{namespace}/{pod}/{uid}/{container}", a.serveAttach)
		mux.HandleFunc(method+"/portForward/{namespace}/{pod}", a.servePortForward)
		mux.HandleFunc(method+"/portForward/{namespace}/{pod}/{uid}", a.servePortForward)
	}
	a.imageRoutes(mux)
	a.statsRoutes(mux)
	a.metricsRoutes(mux)
	for pattern, handler := range a.o.Handlers {
		mux.Handle(pattern, handler)
	}
	return mux
}

func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
	for _, pod := range a.pods.list() {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, &list)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
