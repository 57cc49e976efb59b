package runner

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
	"k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
)

const (
	// hookBodyMax bounds what is read of an answer to a hook.
	hookBodyMax = 10 << 10
	// hookAnswer bounds the wait for an answer to an http hook.
	hookAnswer = 2 * time.Minute

	reasonPostStart = "PostStartHookError"
)

// hooks asks like the kubelet: certificates are not verified, and a redirect to
// another host is an answer.
var hooks = http.Client{
	Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, //nolint:gosec // as documented for hooks
		DialContext: probe.ProbeDialer().DialContext,
	},
	CheckRedirect: httpprobe.RedirectChecker(false),
}

// postStart runs the container's hook. Until it is done the container does not
// count as running, and when it fails the container is stopped. A hook has no
// limit but its container's life.
func (w *worker) postStart(pod *v1.Pod, s *slot) {
	if !s.hasPostStart() {
		w.up(pod, s)
		return
	}
	inst, c, ip := s.current, s.spec, first(w.podIPs())
	ctx, cancel := context.WithCancel(w.r.ctx)
	inst.stopHook = cancel
	s.hookPending = true
	w.jobs.Go(func() {
		defer cancel()
		message, err := w.hook(ctx, pod, c, inst.id, ip, c.Lifecycle.PostStart)
		w.tell(func(w *worker) {
			if s.current != inst || inst.exit != nil || inst.killing {
				return
			}
			s.hookPending = false
			if err == nil {
				s.waiting = v1.ContainerStateWaiting{}
				w.up(pod, s)
				return
			}
			// The message may hold what the container would not tell everybody.
			w.event(pod, s, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			s.waiting = v1.ContainerStateWaiting{Reason: reasonPostStart, Message: message}
			w.kill(pod, s, "FailedPostStartHook", grace(pod))
		})
	})
}

// preStop runs the container's hook; its stop signal waits for it.
func (w *worker) preStop(pod *v1.Pod, s *slot, limit time.Duration) {
	if s.spec.Lifecycle == nil || s.spec.Lifecycle.PreStop == nil {
		return
	}
	inst, c, ip := s.current, s.spec, first(w.podIPs())
	ctx, cancel := context.WithTimeout(w.r.ctx, limit)
	inst.end.hookRunning, inst.stopHook = true, cancel
	w.jobs.Go(func() {
		defer cancel()
		_, err := w.hook(ctx, pod, c, inst.id, ip, c.Lifecycle.PreStop)
		ended := ctx.Err() != nil
		w.tell(func(w *worker) {
			inst.end.hookRunning = false
			if err != nil && !ended && inst.exit == nil {
				w.event(pod, s, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			}
		})
	})
}

func (i *instance) endHook() {
	if i.stopHook != nil {
		i.stopHook()
		i.stopHook = nil
	}
}

// hook runs one hook until it has ended or ctx has. The message is the
// kubelet's.
func (w *worker) hook(ctx context.Context, pod *v1.Pod, c *v1.Container, id, ip string, h *v1.LifecycleHandler) (string, error) {
	switch {
	case h.Exec != nil:
		output, err := w.hookExec(ctx, id, h.Exec.Command)
		return fmt.Sprintf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %v, message: %q", h.Exec.Command, c.Name, format.Pod(pod), err, output), err
	case h.HTTPGet != nil:
		err := w.hookHTTP(ctx, pod, c, ip, h.HTTPGet)
		return fmt.Sprintf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %v", h.HTTPGet.Path, c.Name, format.Pod(pod), err), err
	case h.Sleep != nil:
		if !pause(ctx, time.Duration(h.Sleep.Seconds)*time.Second) {
			err := errors.New("container terminated before sleep hook finished")
			return fmt.Sprintf("Sleep lifecycle hook (%d) for Container %q in Pod %q failed - error: %v", h.Sleep.Seconds, c.Name, format.Pod(pod), err), err
		}
		return "", nil
	}
	// A TCP socket is among them: the API stores it, and no kubelet runs it.
	err := fmt.Errorf("invalid handler: %v", h)
	return "Cannot run handler: " + err.Error(), err
}

func (w *worker) hookExec(ctx context.Context, id string, command []string) (string, error) {
	out := &boundedBuffer{}
	code, err := w.r.Exec(ctx, ExecRequest{ID: id, Command: command, Out: out, Err: out})
	if err == nil && code != 0 {
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), code, out.String())
	}
	return out.String(), err
}

// hookHTTP asks once. Any answer will do; a server that speaks no TLS is asked
// without.
func (w *worker) hookHTTP(ctx context.Context, pod *v1.Pod, c *v1.Container, ip string, action *v1.HTTPGetAction) error {
	ctx, cancel := context.WithTimeout(ctx, hookAnswer)
	defer cancel()
	req, err := httpprobe.NewRequestForHTTPGetAction(action, c, ip, "lifecycle")
	if err != nil {
		return err
	}
	err = ask(req.WithContext(ctx))
	if err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return err
	}
	req = req.Clone(ctx)
	req.URL.Scheme = "http"
	req.Header.Del("Authorization")
	if ask(req) != nil {
		return err
	}
	w.r.Sink.Event(pod, v1.EventTypeWarning, "LifecycleHTTPFallback",
		fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host))
	return nil
}

func ask(req *http.Request) error {
	resp, err := hooks.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, hookBodyMax)
	return resp.Body.Close()
}
