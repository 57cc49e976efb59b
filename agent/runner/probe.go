package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/prober"
)

// up is for a container that runs, its postStart hook done: its probes start.
// What has none is started and ready at once.
func (w *worker) up(pod *v1.Pod, s *slot) {
	w.beginProbes(pod, s, false)
}

func (w *worker) beginProbes(pod *v1.Pod, s *slot, adopted bool) {
	if s.role == roleInit || s.role == roleEphemeral {
		s.started = true
		return
	}
	// What was so stays so until its probe says otherwise. What the API had not
	// heard of, because the daemon died in between, has no probe to say it.
	s.started = s.spec.StartupProbe == nil || (adopted && s.started)
	s.ready = s.spec.ReadinessProbe == nil || (adopted && s.ready)
	if !s.started {
		w.probe(pod, s, prober.Startup, s.spec.StartupProbe, adopted)
		return
	}
	w.probeStarted(pod, s, adopted)
}

// probeStarted begins the probes that wait for the startup probe.
func (w *worker) probeStarted(pod *v1.Pod, s *slot, adopted bool) {
	if p := s.spec.LivenessProbe; p != nil {
		w.probe(pod, s, prober.Liveness, p, adopted)
	}
	if p := s.spec.ReadinessProbe; p != nil {
		w.probe(pod, s, prober.Readiness, p, adopted)
	}
}

// probe begins one probe of the current attempt.
func (w *worker) probe(pod *v1.Pod, s *slot, kind prober.Kind, p *v1.Probe, adopted bool) {
	inst, field := s.current, s.field()
	// What is not ready or not started yet is asked at once, also when adopted.
	spread := adopted && kind != prober.Startup && (kind != prober.Readiness || s.ready)
	inst.probes = append(inst.probes, w.r.probes.Start(prober.Task{
		Kind: kind, Probe: *p, Container: s.spec, IP: first(w.podIPs()), Since: inst.startedAt, Spread: spread,
		Exec: func(ctx context.Context, command []string, timeout time.Duration) (int, string, error) {
			return w.r.execProbe(ctx, inst.id, command, timeout)
		},
		Count:   w.countProbe(pod, s.spec.Name, kind),
		Verdict: func(ok bool) { w.tell(func(w *worker) { w.onProbe(s, inst, kind, ok) }) },
		Note: func(reason, message string) {
			pod := w.newest()
			w.r.Sink.ContainerEvent(pod, field, v1.EventTypeWarning, reason, message)
		},
	}))
}

// countProbe has answers counted, if anybody does.
func (w *worker) countProbe(pod *v1.Pod, container string, kind prober.Kind) func(string) {
	count := w.r.Probed
	if count == nil {
		return nil
	}
	return func(result string) { count(pod, container, kind.String(), result) }
}

// endProbes stops to ask.
func (i *instance) endProbes() {
	for _, p := range i.probes {
		p.Stop()
	}
	i.probes = nil
}

// endHealth stops to ask a container that is told to end whether it lives.
// Whether it is ready is still of interest to those who send it work.
func (i *instance) endHealth() {
	kept := i.probes[:0]
	for _, p := range i.probes {
		if p.Kind() == prober.Readiness {
			kept = append(kept, p)
			continue
		}
		p.Stop()
	}
	i.probes = kept
}

// onProbe acts on a probe's verdict.
func (w *worker) onProbe(s *slot, inst *instance, kind prober.Kind, ok bool) {
	if s.current != inst || inst.exit != nil {
		return
	}
	pod := w.newest()
	switch {
	case kind == prober.Readiness:
		s.ready = ok
	case inst.killing:
	case kind == prober.Startup && ok:
		s.started = true
		w.probeStarted(pod, s, false)
	case !ok:
		w.unhealthy(pod, s, kind)
	}
}

// unhealthy ends a container whose liveness or startup probe failed.
func (w *worker) unhealthy(pod *v1.Pod, s *slot, kind prober.Kind) {
	p := s.spec.LivenessProbe
	if kind == prober.Startup {
		p = s.spec.StartupProbe
	}
	limit := grace(pod)
	if p != nil && p.TerminationGracePeriodSeconds != nil {
		limit = time.Duration(*p.TerminationGracePeriodSeconds) * time.Second
	}
	message := fmt.Sprintf("%s%s failed %s probe", containerWord(s), s.spec.Name, strings.ToLower(kind.String()))
	if s.current.again = s.restartedAfterKill(pod); s.current.again && s.role == roleMain {
		message += ", will be restarted"
	}
	w.kill(pod, s, message, limit)
}

const (
	// probeOutputMax bounds what is kept of a probe's output: the kubelet's.
	probeOutputMax = 10 << 10
	// execBegin bounds the making of a probe's process, for which its container
	// is not to blame.
	execBegin = time.Minute
)

// execProbe runs a probe's command. Making the process is nearly all of the
// work, so only some are made at once; the timeout counts from the process's
// start, as with containerd's CRI.
func (r *Runner) execProbe(ctx context.Context, id string, command []string, timeout time.Duration) (int, string, error) {
	if err := acquire(ctx, r.execs); err != nil {
		return 0, "", err
	}
	release := sync.OnceFunc(func() { <-r.execs })
	defer release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := fmt.Errorf("%w: %q timed out after %s", prober.ErrTimedOut, strings.Join(command, " "), timeout)
	timer := time.AfterFunc(execBegin, func() { cancel(errors.New("the process could not be started in time")) })
	defer func() { timer.Stop() }()
	out := &boundedBuffer{limit: probeOutputMax}
	code, err := r.Exec(ctx, ExecRequest{ID: id, Command: command, Out: out, Err: out, Started: func() {
		release()
		timer.Stop()
		timer = time.AfterFunc(timeout, func() { cancel(late) })
	}})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return code, out.String(), err
}

// pause waits, and reports whether it was for all of d.
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
