package agent

import (
	"fmt"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"shoal/agent/logwriter"
	"shoal/agent/runner"
)

const (
	// knowsWithin bounds how long a request waits for an agent that has just
	// begun to hear of its pods.
	knowsWithin = 10 * time.Second
	knowsPeriod = 20 * time.Millisecond
)

// requested finds the pod a request names, or answers that there is none.
func (a *Agent) requested(w http.ResponseWriter, r *http.Request) *v1.Pod {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	deadline := time.Now().Add(knowsWithin)
	for {
		all := a.synced.Load() // before the look
		if pod := a.pods.get(namespace, name); pod != nil {
			return pod
		}
		if all || time.Now().After(deadline) || r.Context().Err() != nil {
			break
		}
		time.Sleep(knowsPeriod)
	}
	http.Error(w, "pod "+namespace+"/"+name+" is not on this node", http.StatusNotFound)
	return nil
}

// container finds the container a request names, or answers with why not.
func (a *Agent) container(w http.ResponseWriter, r *http.Request) (*v1.Pod, runner.Ref, bool) {
	pod := a.requested(w, r)
	if pod == nil {
		return nil, runner.Ref{}, false
	}
	name := r.PathValue("container")
	ref, ok := a.runner.Container(pod.UID, name)
	if !ok {
		http.Error(w, waiting(pod, name), http.StatusBadRequest)
		return nil, runner.Ref{}, false
	}
	return pod, ref, true
}

// waiting says why a container has not started, in the kubelet's words
// (pkg/kubelet/kubelet_pods.go, validateContainerLogStatus).
func waiting(pod *v1.Pod, container string) string {
	why := "ContainerCreating"
	if c := statusOf(pod, container); c != nil && c.State.Waiting != nil {
		why = c.State.Waiting.Reason
	}
	switch why {
	case "ErrImagePull":
		why = "image can't be pulled"
	case "ImagePullBackOff":
		why = "trying and failing to pull image"
	}
	return fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, pod.Name, why)
}

// statusOf is what the API knows of a container of any kind; nil for nothing.
func statusOf(pod *v1.Pod, container string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				return &list[i]
			}
		}
	}
	return nil
}

// notRunning says that a container has ended, and whether another attempt is
// to be expected.
func notRunning(pod *v1.Pod, ref runner.Ref) string {
	why := "it has ended"
	if pod.DeletionTimestamp != nil {
		why = "its pod is being deleted"
	}
	return fmt.Sprintf("container %q in pod %q is not running: %s", ref.Name, pod.Name, why)
}

// session is the running container, or one that late allows, and the streams that
// are asked for; where there are none, it has answered why.
func (a *Agent) session(w http.ResponseWriter, r *http.Request, late bool) (*v1.Pod, runner.Ref, *remotecommand.Options, bool) {
	pod, ref, ok := a.container(w, r)
	if !ok {
		return nil, ref, nil, false
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, ref, nil, false
	}
	if late && ref.Console != "" && !logwriter.HasConsole(ref.Console) {
		ref.Running = false // it ended just now
	}
	if _, read := a.readAt(ref); !ref.Running && !(late && read) {
		http.Error(w, notRunning(pod, ref), http.StatusBadRequest)
		return nil, ref, nil, false
	}
	return pod, ref, opts, true
}

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	_, ref, opts, ok := a.session(w, r, false)
	if !ok {
		return
	}
	remotecommand.ServeExec(w, r, &streams{a: a}, "", "", ref.ID, r.URL.Query()["command"], opts,
		streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

// serveAttach also takes a client that has just read the log of a container that
// has ended since: refused, kubectl 1.37 would show the log's last second again.
func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	pod, ref, opts, ok := a.session(w, r, true)
	if !ok {
		return
	}
	remotecommand.ServeAttach(w, r, &streams{a: a, pod: pod, ref: ref, logs: runner.LogPath(a.o.LogDir, pod, ref.Name, ref.Attempt)}, "", "", ref.ID, opts,
		streamIdle, streamCreate, remotecommand.SupportedStreamingProtocols)
}

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod := a.requested(w, r)
	if pod == nil {
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
