package runner

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

// hookTimeout bounds a postStart hook, which has no limit of its own.
const hookTimeout = 5 * time.Minute

// postStart runs the container's hook; until it is done the container is not
// ready, and when it fails the container is stopped.
func (w *worker) postStart(pod *v1.Pod, s *slot) {
	if s.spec.Lifecycle == nil || s.spec.Lifecycle.PostStart == nil {
		s.hookPending = false
		return
	}
	inst, hook, ip := s.current, s.spec.Lifecycle.PostStart, first(w.podIPs())
	s.hookPending = true
	w.jobs.Go(func() {
		err := w.hook(w.r.ctx, s.spec, inst.id, ip, hook, hookTimeout)
		w.tell(func(w *worker) {
			if s.current != inst || inst.exit != nil {
				return
			}
			s.hookPending = false
			if err != nil {
				w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed: "+err.Error())
				w.killSoon(pod, s, grace(pod))
				return
			}
			s.ready = s.started && s.probed
		})
	})
}

// preStop runs the container's hook, once, and signals the container after
// it. It reports whether there is a hook to wait for.
func (w *worker) preStop(pod *v1.Pod, s *slot, limit time.Duration) bool {
	inst := s.current
	if s.spec.Lifecycle == nil || s.spec.Lifecycle.PreStop == nil || inst.hooked {
		return inst.hookRunning
	}
	inst.hooked, inst.hookRunning = true, true
	hook, ip := s.spec.Lifecycle.PreStop, first(w.podIPs())
	w.jobs.Go(func() {
		err := w.hook(w.r.ctx, s.spec, inst.id, ip, hook, limit)
		w.tell(func(w *worker) {
			inst.hookRunning = false
			if inst.exit != nil {
				return
			}
			if err != nil {
				w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: "+err.Error())
			}
			w.signal(pod, s, false)
		})
	})
	return true
}

func (w *worker) hook(ctx context.Context, c *v1.Container, id, ip string, h *v1.LifecycleHandler, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch {
	case h.Exec != nil:
		code, output, err := w.r.execOutput(ctx, id, h.Exec.Command, limit)
		if err == nil && code != 0 {
			err = fmt.Errorf("command ended with %d: %s", code, output)
		}
		return err
	case h.HTTPGet != nil:
		req, err := httpprobe.NewRequestForHTTPGetAction(h.HTTPGet, c, ip, "lifecycle")
		if err != nil {
			return err
		}
		result, detail, err := probers.http.Probe(req, limit)
		if err == nil && result == probe.Failure {
			err = fmt.Errorf("request failed: %s", detail)
		}
		return err
	case h.TCPSocket != nil:
		port, err := probe.ResolveContainerPort(h.TCPSocket.Port, c)
		if err != nil {
			return err
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(hostOr(h.TCPSocket.Host, ip), strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return conn.Close()
	case h.Sleep != nil:
		pause(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
		return nil
	}
	return nil
}
