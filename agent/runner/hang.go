package runner

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// A shim that hangs, stopped or stuck, passes no signal on and tells no end: its
// container would stay on its way out for as long. So what does not end of SIGKILL
// is ended without it, and with a pod that goes the shim as well; containerd then
// cleans up after it, as after any shim that died.

// force ends a container that SIGKILL has not ended, in the background.
func (w *worker) force(pod *v1.Pod, s *slot) {
	inst, whole := s.current, w.stop != nil
	if inst.end.forcing {
		return
	}
	inst.end.forcing = true
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(w.r.ctx, purgeKill)
		p, err := w.r.processOf(ctx, inst.id)
		cancel()
		hangs := err == nil && p != nil && p.Status == task.Status_UNKNOWN
		w.r.Cgroups.Kill(w.r.Cgroups.PodPath(QOSClass(pod), string(pod.UID)), inst.id)
		var shim int
		if hangs && whole {
			shim = w.r.endShimOf(inst.id)
		}
		w.tell(func(w *worker) {
			inst.end.forcing = false
			if !hangs || s.current != inst || inst.end.forced && shim == 0 {
				return
			}
			inst.end.forced = true
			message := fmt.Sprintf("Container %s did not end within %s of SIGKILL, and its shim does not answer: killed its control group", s.spec.Name, killRepeat)
			if shim != 0 {
				message += fmt.Sprintf(" and the shim, process %d", shim)
			}
			w.event(pod, s, v1.EventTypeWarning, "FailedKillPod", message)
		})
	})
}

// endShimOf kills the shim that serves the container, and gives its number; 0 if
// none is found.
func (r *Runner) endShimOf(container string) int {
	list := r.shims(func(s strayShim, _ bool) bool {
		sockets, err := s.sockets()
		return err == nil && len(sockets) > 0 && s.at(container, sockets)
	})
	for _, s := range list {
		fd, err := unix.PidfdOpen(s.pid, 0)
		if err != nil {
			continue
		}
		again, _, _, ok := shimOf(s.pid, r.Namespace) // the number may be another's by now
		if ok && again == s {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		_ = unix.Close(fd)
		if ok && again == s && err == nil {
			return s.pid
		}
	}
	return 0
}
