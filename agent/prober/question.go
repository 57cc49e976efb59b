package prober

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"

	"shoal/agent/expand"
)

// ErrTimedOut is the error of a command that took too long.
var ErrTimedOut = errors.New("command timed out")

// tries is how often a question is put that cannot be asked, as the kubelet does.
const tries = 3

// answer is what one question came to. An error says nothing about the
// container.
type answer struct {
	ok, warning bool
	detail      string
	err         error
}

func (a answer) result() string {
	switch {
	case a.err != nil:
		return "unknown"
	case a.ok:
		return "successful"
	}
	return "failed"
}

// question is a probe's, with all it refers to looked up.
type question func(ctx context.Context, timeout time.Duration) answer

// overHTTP is shared: it holds only transport settings, and keeps no
// connection. A redirect to another host is a warning.
var overHTTP = httpprobe.New(false)

func newQuestion(t *Task) question {
	ask := whichQuestion(t)
	return func(ctx context.Context, timeout time.Duration) answer {
		var a answer
		for range tries {
			if a = ask(ctx, timeout); a.err == nil || ctx.Err() != nil {
				break
			}
		}
		return a
	}
}

// whichQuestion keeps as little as it can of the pod's object, which is replaced with
// every change.
func whichQuestion(t *Task) question {
	ip := t.IP
	switch h := t.Probe.ProbeHandler; {
	case h.Exec != nil:
		command, err := expandCommand(h.Exec.Command, t.Container.Env)
		if err != nil {
			return cannot(err)
		}
		run := t.Exec
		return func(ctx context.Context, timeout time.Duration) answer { return askExec(ctx, run, command, timeout) }
	case h.HTTPGet != nil:
		named := &v1.Container{Name: t.Container.Name, Ports: t.Container.Ports}
		return func(ctx context.Context, timeout time.Duration) answer {
			return askHTTP(ctx, h.HTTPGet, named, ip, timeout)
		}
	case h.TCPSocket != nil:
		port, err := probe.ResolveContainerPort(h.TCPSocket.Port, t.Container)
		if err != nil {
			return cannot(err)
		}
		host := h.TCPSocket.Host
		if host == "" {
			host = ip
		}
		address := net.JoinHostPort(host, strconv.Itoa(port))
		return func(ctx context.Context, timeout time.Duration) answer { return askTCP(ctx, address, timeout) }
	case h.GRPC != nil:
		service := ""
		if h.GRPC.Service != nil {
			service = *h.GRPC.Service
		}
		address := net.JoinHostPort(ip, strconv.Itoa(int(h.GRPC.Port)))
		return func(ctx context.Context, timeout time.Duration) answer {
			return askGRPC(ctx, address, service, timeout)
		}
	}
	return cannot(errors.New("missing probe handler for " + t.Container.Name))
}

// expandCommand replaces $(VAR) in a probe's command by what env has as it is
// written, which is all the kubelet does.
func expandCommand(command []string, env []v1.EnvVar) ([]string, error) {
	values := make(map[string]string, len(env))
	for _, e := range env {
		values[e.Name] = e.Value
	}
	var size expand.Size
	out := make([]string, len(command))
	for i, text := range command {
		var err error
		if out[i], err = size.Expand(text, func(name string) (string, bool) { v, ok := values[name]; return v, ok }); err != nil {
			return nil, fmt.Errorf("exec.command[%d]: %w", i, err)
		}
	}
	return out, nil
}

func cannot(err error) question {
	return func(context.Context, time.Duration) answer { return answer{err: err} }
}

func askExec(ctx context.Context, run func(context.Context, []string, time.Duration) (int, string, error), command []string, timeout time.Duration) answer {
	code, output, err := run(ctx, command, timeout)
	switch {
	case errors.Is(err, ErrTimedOut):
		return answer{detail: err.Error()}
	case err != nil:
		return answer{err: err}
	}
	return answer{ok: code == 0, detail: output}
}

func askHTTP(ctx context.Context, action *v1.HTTPGetAction, c *v1.Container, ip string, timeout time.Duration) answer {
	req, err := httpprobe.NewRequestForHTTPGetAction(action, c, ip, "probe")
	if err != nil {
		return answer{err: err}
	}
	result, detail, err := overHTTP.Probe(req.WithContext(ctx), timeout)
	return answer{ok: result == probe.Success || result == probe.Warning, warning: result == probe.Warning, detail: detail, err: err}
}

func askTCP(ctx context.Context, address string, timeout time.Duration) answer {
	d := probe.ProbeDialer()
	d.Timeout = timeout
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return answer{detail: err.Error()}
	}
	_ = conn.Close()
	return answer{ok: true}
}
