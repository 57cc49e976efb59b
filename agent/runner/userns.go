package runner

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/userns"
)

// users is the user namespace of a pod that has its own.
type users struct {
	path  string // where it is pinned
	first uint32 // what its root is on the host
}

func hasOwnUsers(pod *v1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// rootID is who the containers' root is on the host.
func (w *worker) rootID() uint32 {
	if w.box.users == nil {
		return 0
	}
	return w.box.users.first
}

// UserNamespaces says why pods cannot have user namespaces on this host; nil
// if they can. It looks once.
func (r *Runner) UserNamespaces() error { return r.usersAllowed() }

// prepareUsers makes the user namespace of a pod that wants one, and those that
// it owns.
func (w *worker) prepareUsers(ctx context.Context, pod *v1.Pod) error {
	if !hasOwnUsers(pod) {
		return nil
	}
	uid := string(pod.UID)
	if !pinned(w.r.pins.path(uid, pinUser)) {
		if err := w.usersSupported(ctx, pod); err != nil {
			return err
		}
	}
	first, err := w.r.ids.Take(uid)
	if err != nil {
		return err
	}
	name, err := w.r.nodename(pod)
	if err != nil {
		return err
	}
	if err := w.r.pins.makeOwned(uid, name, first); err != nil {
		return fmt.Errorf("pin namespaces of pod %s: %w", uid, err)
	}
	w.box.users = &users{path: w.r.pins.path(uid, pinUser), first: first}
	return nil
}

// usersSupported says in the kubelet's words, and why, if a pod cannot have a
// user namespace.
func (w *worker) usersSupported(ctx context.Context, pod *v1.Pod) error {
	if err := w.findRuntime(ctx, pod); err != nil {
		return fmt.Errorf("Failed to create pod sandbox: %w", err) //nolint:staticcheck // the kubelet's words, shown as they are
	}
	if err := w.r.usersAllowed(); err != nil {
		return fmt.Errorf("can't set `spec.hostUsers: false`, runtime does not support user namespaces: %w", err)
	}
	if w.r.Runtimes.Features(ctx, *w.box.runtime).UserNamespaces {
		return nil
	}
	if class := pod.Spec.RuntimeClassName; class != nil {
		return fmt.Errorf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces", w.box.runtime.Handler)
	}
	return fmt.Errorf("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
}

// makeOwned pins a user namespace and those it owns, unless the pod has them.
// The user namespace comes last: where it is, all are.
func (p *pins) makeOwned(podUID, hostname string, first uint32) error {
	if pinned(p.path(podUID, pinUser)) {
		return nil
	}
	kinds := []string{"ipc", "uts", pinNet}
	ns, err := userns.Make(first, kinds...)
	if err != nil {
		return err
	}
	defer ns.Close()
	for _, kind := range kinds {
		if err := p.pin(podUID, kind, ns.Path(kind)); err != nil {
			return err
		}
	}
	if err := setHostname(p.path(podUID, "uts"), hostname); err != nil {
		return err
	}
	return p.pin(podUID, pinUser, ns.Path(pinUser))
}

// setHostname gives the UTS namespace at path its name.
func setHostname(path, hostname string) error {
	return onOwnThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("set hostname: open %s: %w", path, err)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWUTS); err != nil {
			return fmt.Errorf("set hostname: enter %s: %w", path, err)
		}
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set hostname: %w", err)
		}
		return nil
	})
}
