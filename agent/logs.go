package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"

	"shoal/agent/logwriter"
	"shoal/agent/runner"
)

// serveLogs streams a container's log file.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	opts, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod, ref, ok := a.container(w, r)
	if !ok {
		return
	}
	path := runner.LogPath(a.o.LogDir, pod, ref.Name, attemptOf(pod, ref, opts.Previous))
	if _, err := os.Stat(path); err != nil {
		if opts.Previous {
			http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", ref.Name, pod.Name), http.StatusBadRequest)
			return
		}
		// Created, and nothing was started that could have written.
		w.WriteHeader(http.StatusOK)
		return
	}
	out := &flushWriter{w: w, flush: opts.Follow}
	var stdout, stderr io.Writer = out, out
	if s := opts.Stream; s != nil && *s == v1.LogStreamStdout {
		stderr = nil
	} else if s != nil && *s == v1.LogStreamStderr {
		stdout = nil
	}
	w.Header().Set("Content-Type", "text/plain")
	if opts.Follow {
		_, _ = out.Write(nil) // a follower is answered before the first line comes
	}
	if ref.Console != "" && fromStart(opts) {
		a.tellConsole(ref)
	}
	state := &runState{a: a, pod: pod, ref: ref}
	err = logs.ReadLogs(r.Context(), path, ref.ID, readOptions(opts, time.Now()), state, stdout, stderr)
	if err != nil && r.Context().Err() == nil && !out.wrote {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

const (
	// readFresh is how long after it has read a log a client may attach to a
	// container that has ended meanwhile.
	readFresh = 10 * time.Second
	// readersKnown bounds the containers whose readers are remembered.
	readersKnown = 256
)

// fromStart says that all that is in the log now is read.
func fromStart(o *v1.PodLogOptions) bool {
	return !o.Follow && !o.Previous && o.TailLines == nil && o.LimitBytes == nil && o.SinceSeconds == nil && o.SinceTime == nil && o.Stream == nil
}

// tellConsole has the container's console forget, for its first client, what the
// caller is about to read.
func (a *Agent) tellConsole(ref runner.Ref) {
	if err := logwriter.LogIsRead(ref.Console); err != nil && !errors.Is(err, logwriter.ErrNoConsole) {
		a.log.Warn("a client may be shown lines of a log twice", "container", ref.Name, "error", err)
	}
	a.readers.Add(ref.ID, time.Now(), readFresh)
}

// readAt is when somebody has just read all of the container's log.
func (a *Agent) readAt(ref runner.Ref) (time.Time, bool) {
	at, ok := a.readers.Get(ref.ID)
	if !ok {
		return time.Time{}, false
	}
	return at.(time.Time), true
}

// logOptions reads the query as the kubelet does.
func logOptions(q url.Values) (*v1.PodLogOptions, error) {
	o := &v1.PodLogOptions{}
	for name, field := range map[string]*bool{"follow": &o.Follow, "previous": &o.Previous, "timestamps": &o.Timestamps} {
		if text := q.Get(name); text != "" {
			b, err := strconv.ParseBool(text)
			if err != nil {
				return nil, fmt.Errorf("query %s: %q is not true or false", name, text)
			}
			*field = b
		}
	}
	if q.Get("tailLines") == "" && q.Get("tail") != "" && q.Get("tail") != "all" {
		q.Set("tailLines", q.Get("tail"))
	}
	for name, field := range map[string]**int64{"tailLines": &o.TailLines, "limitBytes": &o.LimitBytes, "sinceSeconds": &o.SinceSeconds} {
		if text := q.Get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("query %s: %q is not a number of 0 or more", name, text)
			}
			*field = &n
		}
	}
	if text := q.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("query sinceTime: %w", err)
		}
		t := metav1.NewTime(at)
		o.SinceTime = &t
	}
	if s := q.Get("stream"); s != "" {
		o.Stream = &s
	}
	return o, nil
}

// readOptions turns the API's options into the log reader's.
func readOptions(o *v1.PodLogOptions, now time.Time) *logs.LogOptions {
	out := &logs.LogOptions{TailLines: o.TailLines, LimitBytes: o.LimitBytes, Follow: o.Follow, Timestamp: o.Timestamps}
	if o.SinceSeconds != nil {
		out.Since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	}
	if o.SinceTime != nil {
		out.Since = o.SinceTime.Time
	}
	return out
}

// attemptOf is the attempt whose log is asked for. While the next attempt is
// waited for, the one that ended last is the previous, as the status says.
func attemptOf(pod *v1.Pod, ref runner.Ref, previous bool) int32 {
	if !previous {
		return ref.Attempt
	}
	if status := statusOf(pod, ref.Name); !ref.Running && status != nil && status.State.Waiting != nil {
		if last := status.LastTerminationState.Terminated; last != nil && last.ContainerID == "containerd://"+ref.ID {
			return ref.Attempt
		}
	}
	return ref.Attempt - 1
}

// flushWriter sends every line on at once, for followers.
type flushWriter struct {
	w     http.ResponseWriter
	flush bool
	wrote bool
}

// Write sends p.
func (f *flushWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.wrote = true
	if flusher, ok := f.w.(http.Flusher); ok && f.flush {
		flusher.Flush()
	}
	return n, err
}

// runState answers the log reader's only question to a container runtime:
// whether the container still runs.
type runState struct {
	internalapi.RuntimeService // nil: nothing else is ever asked
	a                          *Agent
	pod                        *v1.Pod
	ref                        runner.Ref
}

// ContainerStatus reports running or exited.
func (s *runState) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if s.a.runner.Running(id) {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: id, State: state}}, nil
}
