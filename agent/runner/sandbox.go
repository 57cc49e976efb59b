package runner

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"

	"shoal/agent/cgroup"
	"shoal/agent/runtimes"
)

// sandbox is what the containers of a pod share.
type sandbox struct {
	ready    bool
	netns    string
	ips      []netip.Addr
	failures int
	unsaid   time.Time         // since when it lacks what may come in a moment; zero if never
	runtime  *runtimes.Runtime // of the pod's containers; nil until found
	users    *users            // nil for the host's
}

// retryFirst and retryMax bound the wait before a failed step is tried again.
const (
	retryFirst = time.Second
	retryMax   = time.Minute
)

func retryAfter(failures int) time.Duration {
	return min(retryFirst<<min(failures, 10), retryMax)
}

// prepare makes everything the first container needs, all at once.
func (w *worker) prepare(ctx context.Context, pod *v1.Pod) (time.Time, bool) {
	err := w.prepareAll(ctx, pod)
	if err == nil {
		w.box.ready = true
		return time.Time{}, true
	}
	if ctx.Err() != nil || w.startable.Err() != nil {
		return time.Time{}, false
	}
	if w.passes(err) {
		return now().Add(passingRetry), false
	}
	w.box.failures++
	if !w.mountFailed(pod, err) {
		w.r.Sink.Event(pod, v1.EventTypeWarning, "FailedCreatePodSandBox", err.Error())
	}
	w.log.Warn("pod cannot be set up yet", "error", err, "failures", w.box.failures)
	return now().Add(retryAfter(w.box.failures)), false
}

func (w *worker) prepareAll(ctx context.Context, pod *v1.Pod) error {
	if err := w.prepareUsers(ctx, pod); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if pod.Spec.HostNetwork {
			w.box.netns, w.box.ips = "", w.r.NodeIPs()
			return nil
		}
		return w.attach(ctx, pod)
	})
	g.Go(func() error {
		if w.box.users != nil {
			return nil // made with its user namespace
		}
		name, err := w.r.nodename(pod)
		if err != nil {
			return err
		}
		return w.r.pins.make(string(pod.UID), name, !pod.Spec.HostNetwork)
	})
	g.Go(func() error { return w.prepareRuntime(ctx, pod) })
	g.Go(func() error { return w.makeGroup(pod) })
	g.Go(func() error { return w.r.Volumes.Setup(ctx, pod) })
	g.Go(func() error { return w.makeDirs(pod) })
	g.Go(func() error { return w.makeShm(pod) })
	g.Go(func() error {
		w.prefetch(ctx, pod)
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return w.writeHosts(ctx, pod)
}

// prefetch makes the root file systems of the containers that start first.
// Failing is fine: the start tries again and reports.
func (w *worker) prefetch(ctx context.Context, pod *v1.Pod) {
	var g errgroup.Group
	for _, s := range w.first() {
		if s.spec.ImagePullPolicy == v1.PullAlways {
			continue
		}
		g.Go(func() error {
			img, err := w.r.Images.Get(ctx, s.spec.Image)
			if err != nil {
				return nil
			}
			s.image = img
			p, err := w.snapshot(ctx, pod, s)
			if err == nil {
				s.prepared = p
			}
			return nil
		})
	}
	_ = g.Wait()
}

// first are the slots that can start as soon as the sandbox is there.
func (w *worker) first() []*slot {
	var mains []*slot
	for _, s := range w.slots {
		switch {
		case s.current != nil || s.succeeded() || s.prepared != nil || s.role == roleEphemeral:
		case s.role != roleMain:
			return []*slot{s}
		default:
			mains = append(mains, s)
		}
	}
	return mains
}

// QOSClass is the pod's class, as the API or else as its containers say.
func QOSClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	return qos.ComputePodQOS(pod)
}

func (w *worker) makeGroup(pod *v1.Pod) error {
	// Of an adopted pod the group gets what its containers have: a resize goes on
	// from there, in its order.
	w.group = cgroup.ForPod(w.actual(pod), w.r.PodPIDs)
	return w.r.Cgroups.Create(QOSClass(pod), string(pod.UID), w.group)
}

func (w *worker) podDir(pod *v1.Pod) string {
	return filepath.Join(w.r.DataDir, "pods", string(pod.UID))
}

// LogDir is where the pod's logs are, in the kubelet's layout.
func LogDir(base string, pod *v1.Pod) string {
	return filepath.Join(base, logName(pod))
}

func (w *worker) makeDirs(pod *v1.Pod) error {
	if err := os.MkdirAll(w.podDir(pod), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := w.r.logs.add(logName(pod)); err != nil {
		return err
	}
	for _, s := range w.slots {
		if err := w.makeLogDir(pod, s); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) makeLogDir(pod *v1.Pod, s *slot) error {
	if err := os.MkdirAll(filepath.Join(LogDir(w.r.LogDir, pod), s.spec.Name), 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	return nil
}
