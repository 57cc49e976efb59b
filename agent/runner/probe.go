package runner

import (
	"context"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

// firstRetry is how soon a probe that has not succeeded yet is tried again;
// the wait doubles up to the probe's own period. A server that is up 100 ms
// after its process is then ready in 100 ms, not after a whole period.
const firstRetry = 50 * time.Millisecond

type probeKind int

const (
	probeStartup probeKind = iota
	probeLiveness
	probeReadiness
)

func (k probeKind) String() string {
	return [...]string{"Startup", "Liveness", "Readiness"}[k]
}

// probers are shared: each holds only its transport settings.
var probers = struct {
	http httpprobe.Prober
	tcp  tcpprobe.Prober
	grpc grpcprobe.Prober
}{httpprobe.New(false), tcpprobe.New(), grpcprobe.New()}

// up starts a running container's probes. What has none is started and ready
// at once.
func (w *worker) up(pod *v1.Pod, s *slot) {
	c := s.spec
	if s.role == roleInit {
		s.started = true
		return
	}
	s.started = c.StartupProbe == nil
	s.ready = s.started && c.ReadinessProbe == nil
	s.probed = c.ReadinessProbe == nil
	if c.StartupProbe == nil && c.LivenessProbe == nil && c.ReadinessProbe == nil {
		return
	}
	ctx, cancel := context.WithCancel(w.r.ctx)
	s.current.stopProbes = cancel
	if c.StartupProbe != nil {
		w.probe(ctx, pod, s, probeStartup, c.StartupProbe)
		return
	}
	w.probeStarted(ctx, pod, s)
}

// probeStarted begins the probes that wait for the startup probe.
func (w *worker) probeStarted(ctx context.Context, pod *v1.Pod, s *slot) {
	if p := s.spec.LivenessProbe; p != nil {
		w.probe(ctx, pod, s, probeLiveness, p)
	}
	if p := s.spec.ReadinessProbe; p != nil {
		w.probe(ctx, pod, s, probeReadiness, p)
	}
}

// probe runs one probe of the current attempt until ctx ends, and tells the
// worker when its verdict changes.
func (w *worker) probe(ctx context.Context, pod *v1.Pod, s *slot, kind probeKind, p *v1.Probe) {
	inst := s.current
	ip := first(w.podIPs())
	w.jobs.Go(func() {
		t := tally{success: max(p.SuccessThreshold, 1), failure: max(p.FailureThreshold, 1)}
		period := time.Duration(max(p.PeriodSeconds, 1)) * time.Second
		retry := firstRetry
		began := now()
		if !pause(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) {
			return
		}
		for {
			ok, detail := w.probeOnce(ctx, s.spec, inst.id, ip, p)
			if ctx.Err() != nil {
				return
			}
			wait := period
			early := !ok && !t.everOK && kind != probeLiveness && now().Sub(began) < period
			if early {
				wait, retry = retry, min(2*retry, period)
			}
			if !early {
				if verdict, changed := t.add(ok); changed || (!ok && verdict == failing && kind != probeReadiness) {
					w.tell(func(w *worker) { w.onProbe(ctx, pod, s, inst, kind, p, verdict == passing) })
				}
				if !ok {
					w.r.Sink.Event(pod, v1.EventTypeWarning, "Unhealthy", kind.String()+" probe failed: "+detail)
				}
			}
			if kind == probeStartup && t.verdict == passing {
				return
			}
			if !pause(ctx, wait) {
				return
			}
		}
	})
}

type verdict int

const (
	undecided verdict = iota
	passing
	failing
)

// tally turns single results into a verdict by the probe's thresholds.
type tally struct {
	success, failure int32
	run              int32 // equal results in a row; negative for failures
	verdict          verdict
	everOK           bool
}

func (t *tally) add(ok bool) (verdict, bool) {
	before := t.verdict
	if ok {
		t.everOK = true
		t.run = max(t.run, 0) + 1
		if t.run >= t.success {
			t.verdict = passing
		}
	} else {
		t.run = min(t.run, 0) - 1
		if -t.run >= t.failure {
			t.verdict = failing
		}
	}
	return t.verdict, t.verdict != before
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// onProbe acts on a probe's verdict.
func (w *worker) onProbe(ctx context.Context, pod *v1.Pod, s *slot, inst *instance, kind probeKind, p *v1.Probe, ok bool) {
	if s.current != inst || inst.exit != nil || inst.killing {
		return
	}
	switch {
	case kind == probeReadiness:
		s.probed = ok
		s.ready = ok && s.started
	case kind == probeStartup && ok:
		s.started = true
		s.ready = s.spec.ReadinessProbe == nil
		w.probeStarted(ctx, pod, s)
	case !ok:
		w.unhealthy(pod, s, kind, p)
	}
}

// unhealthy ends a container whose liveness or startup probe failed.
func (w *worker) unhealthy(pod *v1.Pod, s *slot, kind probeKind, p *v1.Probe) {
	limit := grace(pod)
	if p.TerminationGracePeriodSeconds != nil {
		limit = time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	message := fmt.Sprintf("%s%s failed %s probe", containerWord(s), s.spec.Name, strings.ToLower(kind.String()))
	if s.current.again = s.restartedAfterKill(pod); s.current.again && s.role == roleMain {
		message += ", will be restarted"
	}
	w.kill(pod, s, message, limit)
}

// probeOnce asks once.
func (w *worker) probeOnce(ctx context.Context, c *v1.Container, id, ip string, p *v1.Probe) (bool, string) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	var result probe.Result
	var detail string
	var err error
	switch {
	case p.Exec != nil:
		var code int
		code, detail, err = w.r.execOutput(ctx, id, p.Exec.Command, timeout)
		if err == nil && code == 0 {
			result = probe.Success
		}
	case p.HTTPGet != nil:
		req, reqErr := httpprobe.NewRequestForHTTPGetAction(p.HTTPGet, c, ip, "probe")
		if reqErr != nil {
			return false, reqErr.Error()
		}
		result, detail, err = probers.http.Probe(req, timeout)
	case p.TCPSocket != nil:
		port, portErr := probe.ResolveContainerPort(p.TCPSocket.Port, c)
		if portErr != nil {
			return false, portErr.Error()
		}
		result, detail, err = probers.tcp.Probe(hostOr(p.TCPSocket.Host, ip), port, timeout)
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		result, detail, err = probers.grpc.Probe(ip, service, int(p.GRPC.Port), timeout, grpcprobe.ProbeOptions{})
	default:
		return false, "this kind of probe is not supported here"
	}
	if err != nil {
		return false, err.Error()
	}
	return result == probe.Success || result == probe.Warning, detail
}

func hostOr(host, ip string) string {
	if host != "" {
		return host
	}
	return ip
}
