package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"shoal/agent/runner"
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
)

// serve answers the kubelet's API until ctx ends.
func (a *Agent) serve(ctx context.Context) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler: a.callers.guard(a.handler()), TLSConfig: a.o.TLS, ReadHeaderTimeout: headerTimeout,
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
	return mux
}

func (a *Agent) servePods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
	for _, pod := range a.pods.list() {
		list.Items = append(list.Items, *pod)
	}
	writeJSON(w, http.StatusOK, &list)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// container finds the container a request names, or answers with why not.
func (a *Agent) container(w http.ResponseWriter, r *http.Request) (*v1.Pod, runner.Ref, bool) {
	pod := a.pods.get(r.PathValue("namespace"), r.PathValue("pod"))
	if pod == nil {
		http.Error(w, "pod "+r.PathValue("namespace")+"/"+r.PathValue("pod")+" is not on this node", http.StatusNotFound)
		return nil, runner.Ref{}, false
	}
	name := r.PathValue("container")
	ref, ok := a.runner.Container(pod.UID, name)
	if !ok {
		http.Error(w, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, pod.Name, waitingReason(pod, name)), http.StatusBadRequest)
		return nil, runner.Ref{}, false
	}
	return pod, ref, true
}

// waitingReason is why a container is not there yet, as its status says.
func waitingReason(pod *v1.Pod, container string) string {
	for _, c := range append(append([]v1.ContainerStatus{}, pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...) {
		if c.Name == container && c.State.Waiting != nil {
			return c.State.Waiting.Reason
		}
	}
	return "ContainerCreating"
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	_, ref, ok := a.container(w, r)
	if !ok {
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !ref.Running {
		http.Error(w, "container "+ref.Name+" is not running", http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, &streams{a: a}, "", "", ref.ID, r.URL.Query()["command"], opts,
		streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	pod, ref, ok := a.container(w, r)
	if !ok {
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if opts.Stdin {
		http.Error(w, "attach with input is not supported: containers write to log files and have no input; use exec", http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(w, r, &streams{a: a, logs: runner.LogPath(a.o.LogDir, pod, ref.Name, ref.Attempt)}, "", "", ref.ID, opts,
		streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod := a.pods.get(r.PathValue("namespace"), r.PathValue("pod"))
	if pod == nil {
		http.Error(w, "pod "+r.PathValue("namespace")+"/"+r.PathValue("pod")+" is not on this node", http.StatusNotFound)
		return
	}
	netns, ok := a.runner.Netns(pod.UID)
	if !ok {
		http.Error(w, "pod "+pod.Name+" is not running", http.StatusBadRequest)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, &streams{a: a, netns: netns}, pod.Name, string(pod.UID), opts,
		streamIdle, streamCreate, portforward.SupportedProtocols)
}
