package shutdown

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// What the API says of it, in the kubelet's words.
const (
	RejectReason  = "NodeShutdown"
	RejectMessage = "Pod was rejected as the node is shutting down."
	NodeMessage   = "node is shutting down"
	endReason     = "Terminated"
	endMessage    = "Pod was terminated in response to imminent node shutdown."
)

const (
	// socket is the system bus's; without it there is no logind to hear of.
	socket = "/run/dbus/system_bus_socket"
	// confDir is where logind looks for parts of its configuration.
	confDir = "/etc/systemd/logind.conf.d"
	// reconnect and reconnectMax space out attempts to reach a bus that went.
	reconnect    = time.Second
	reconnectMax = time.Minute
	// settleDelay is how long logind gets to read its configuration.
	settleDelay = time.Second
	// killTime is how long the end of a container that had to be killed takes.
	killTime = 300 * time.Millisecond
	// lastWords is how long the last statuses get to be written.
	lastWords = 2 * time.Second
)

// Options say how pods end and who ends them. All but Periods, Bus and
// ConfDir are required.
type Options struct {
	Periods []Period // none: nothing is done at a shutdown
	// Pods are those of this host that have not ended.
	Pods func() []*v1.Pod
	// End ends one with that grace in seconds and returns when its containers
	// have ended; change is what to say of it.
	End func(ctx context.Context, pod *v1.Pod, graceSeconds int64, change func(*v1.PodStatus)) error
	// Running reports whether a container of the pod runs.
	Running func(pod *v1.Pod) bool
	// Changed is called when a shutdown begins or is cancelled; Closing tells
	// which.
	Changed func()
	// Flush waits until the API has heard of all.
	Flush  func(ctx context.Context)
	Logger *slog.Logger

	// Bus is a D-Bus address in place of the system's, and ConfDir another
	// directory for logind's configuration: for tests.
	Bus, ConfDir string
}

// Manager waits for a shutdown.
type Manager struct {
	Options
	closing atomic.Bool
}

// New makes a Manager. Nothing happens before Run.
func New(o Options) *Manager {
	if o.ConfDir == "" {
		o.ConfDir = confDir
	}
	return &Manager{Options: o}
}

// Closing reports whether the machine is shutting down.
func (m *Manager) Closing() bool { return m.closing.Load() }

// Run waits for shutdowns until ctx ends. Where there is no logind it returns
// at once.
func (m *Manager) Run(ctx context.Context) error {
	if total(m.Periods) <= 0 {
		return nil
	}
	if m.Bus == "" && os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") == "" {
		if _, err := os.Stat(socket); err != nil {
			m.Logger.Info("no D-Bus here: pods are not ended in order when the machine shuts down")
			return nil
		}
	}
	for wait := reconnect; ctx.Err() == nil; wait = min(2*wait, reconnectMax) {
		began := time.Now()
		err := m.connected(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > reconnectMax {
			wait = reconnect
		}
		m.Logger.Warn("shutdowns of the machine are not heard of, will retry", "error", err, "retryIn", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// connected follows one connection until it ends.
func (m *Manager) connected(ctx context.Context) error {
	l, err := dial(ctx, m.Bus)
	if err != nil {
		return err
	}
	defer l.close()
	most, err := m.ensureDelay(ctx, l)
	if err != nil {
		return err
	}
	lock, err := l.inhibit(ctx)
	if err != nil {
		return err
	}
	defer func() { closeLock(lock) }()
	for {
		begins, ok := l.next(ctx)
		switch {
		case !ok && ctx.Err() != nil:
			return nil
		case !ok:
			return errors.New("the connection to D-Bus has ended")
		case begins && !m.closing.Swap(true):
			m.Changed()
			m.end(ctx, fit(m.Periods, most))
			closeLock(lock)
			lock = nil
		case !begins && m.closing.Swap(false):
			m.Logger.Info("the machine's shutdown was cancelled")
			m.Changed()
			if lock, err = l.inhibit(ctx); err != nil {
				return err
			}
		}
	}
}

func closeLock(lock io.Closer) {
	if f, ok := lock.(*os.File); ok && f != nil {
		_ = f.Close()
	}
}

// ensureDelay has logind wait for as long as the periods are, and answers with
// how long it does.
func (m *Manager) ensureDelay(ctx context.Context, l *logind) (time.Duration, error) {
	have, err := l.delay()
	if err != nil {
		return 0, err
	}
	want := total(m.Periods)
	if have >= want {
		return have, nil
	}
	if err := l.setDelay(ctx, m.ConfDir, want); err != nil {
		m.Logger.Warn("logind waits less long than pods may take; set InhibitDelayMaxSec", "error", err, "wait", have, "periods", want)
		return have, nil
	}
	for end := time.Now().Add(settleDelay); have < want && time.Now().Before(end) && ctx.Err() == nil; time.Sleep(settleDelay / 20) {
		if have, err = l.delay(); err != nil {
			return 0, err
		}
	}
	if have < want {
		m.Logger.Warn("logind waits less long than pods may take; pods get less", "wait", have, "periods", want)
	}
	return have, nil
}

// end ends the pods, group by group.
func (m *Manager) end(ctx context.Context, periods []Period) {
	m.Logger.Warn("the machine shuts down: ending pods")
	for _, g := range groups(periods, m.Pods()) {
		if len(g.pods) == 0 || ctx.Err() != nil {
			continue
		}
		m.endGroup(ctx, g)
	}
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	m.Flush(ctx)
}

// endGroup gives the pods of a group their period and no more.
func (m *Manager) endGroup(ctx context.Context, g group) {
	ctx, cancel := context.WithTimeout(ctx, g.Time+killTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, pod := range g.pods {
		grace := int64(g.Time / time.Second)
		if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
			grace = min(grace, *own)
		}
		ran := m.Running(pod)
		wg.Go(func() {
			if err := m.End(ctx, pod, grace, func(status *v1.PodStatus) { ended(pod, ran, status) }); err != nil {
				m.Logger.Warn("pod has not ended in time", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			}
		})
	}
	wg.Wait()
}

// ended says of a pod why it ended. One that ran has failed, also when its
// containers took the signal well: what they were for is not done.
func ended(pod *v1.Pod, ran bool, status *v1.PodStatus) {
	if ran || status.Phase != v1.PodSucceeded {
		status.Phase = v1.PodFailed
	}
	status.Reason, status.Message = endReason, endMessage
	podutil.UpdatePodCondition(status, &v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: endMessage,
		ObservedGeneration: podutil.CalculatePodConditionObservedGeneration(status, pod.Generation, v1.DisruptionTarget),
	})
}
