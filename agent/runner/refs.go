package runner

import (
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Ref is one container as others may use it.
type Ref struct {
	Name    string
	ID      string // containerd's
	Attempt int32
	Running bool
	Spec    *v1.Container // not to be changed
	Console string        // directory of its console; empty without one
	// PID is of its first process; 0 once it has ended.
	PID       int
	StartedAt time.Time
	Image     string // its name, as the status has it
}

// view is what a worker shows to other goroutines, renewed with every step.
type view struct {
	containers []Ref
	netns      string
	up         bool
}

func (w *worker) show() {
	v := &view{netns: w.box.netns, up: w.box.ready}
	for _, s := range w.slots {
		if s.current != nil {
			ref := Ref{
				Name: s.spec.Name, ID: s.current.id, Attempt: s.current.attempt, Running: s.running(),
				StartedAt: s.current.startedAt, Image: s.current.imageName,
				Spec: s.spec, Console: s.current.console,
			}
			if ref.Running {
				ref.PID = s.current.pid
			}
			v.containers = append(v.containers, ref)
		}
	}
	w.view.Store(v)
}

func (r *Runner) look(uid types.UID) *view {
	r.mu.Lock()
	w := r.workers[uid]
	r.mu.Unlock()
	if w == nil {
		return nil
	}
	return w.view.Load()
}

// Container finds a pod's container by name.
func (r *Runner) Container(uid types.UID, name string) (Ref, bool) {
	if v := r.look(uid); v != nil {
		for _, c := range v.containers {
			if c.Name == name {
				return c, true
			}
		}
	}
	return Ref{}, false
}

// Containers are the pod's containers that were started, those that ended
// included.
func (r *Runner) Containers(uid types.UID) []Ref {
	if v := r.look(uid); v != nil {
		return v.containers
	}
	return nil
}

// Netns is the pod's network namespace; empty is the host's.
func (r *Runner) Netns(uid types.UID) (string, bool) {
	v := r.look(uid)
	if v == nil || !v.up {
		return "", false
	}
	return v.netns, true
}

// Running reports whether a container with this id runs.
func (r *Runner) Running(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.workers {
		v := w.view.Load()
		if v == nil {
			continue
		}
		for _, c := range v.containers {
			if c.ID == id {
				return c.Running
			}
		}
	}
	return false
}
