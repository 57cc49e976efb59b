package runner

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// shimServing is the number of the shim that serves a running container.
func (b *bed) shimServing(p *v1.Pod) int {
	b.t.Helper()
	ref, _ := b.runner.Container(p.UID, "main")
	list := b.runner.shims(func(s strayShim, gone bool) bool {
		sockets, err := s.sockets()
		return err == nil && s.at(ref.ID, sockets)
	})
	if len(list) != 1 {
		b.t.Fatalf("shims of %s: %v", p.Name, list)
	}
	return list[0].pid
}

// TestHangingShims: a start waits for shims that hang at the same time, not for one
// after another, and takes their containers for what may run; a pod with such a shim
// can be deleted all the same.
func TestHangingShims(t *testing.T) {
	b := newBed(t)
	var pods []*v1.Pod
	var shims, mains []int
	for i := range 6 {
		p := pod(fmt.Sprint("hangs", i), sleeper)
		b.runner.Set(p)
		pods = append(pods, p)
	}
	for _, p := range pods {
		b.phase(p, v1.PodRunning)
		ref, _ := b.runner.Container(p.UID, "main")
		mains, shims = append(mains, b.pid(ref.ID)), append(shims, b.shimServing(p))
	}
	one := longest(t, b, shims[:1], pods)
	for tries := 0; ; tries++ {
		all := longest(t, b, shims, pods)
		if all < 4*one { // one after another it is six times as long
			break
		}
		if tries == 2 { // a start may be slow for another reason, three need not
			t.Errorf("a start took %s with one hanging shim and %s with six", one, all)
			break
		}
	}
	for i, p := range pods {
		if c := b.last(p.UID).ContainerStatuses[0]; c.State.Running == nil || c.RestartCount != 0 {
			t.Errorf("%s with a hanging shim: %+v", p.Name, c)
		}
		if dead(mains[i]) {
			t.Errorf("%s has ended", p.Name)
		}
	}

	for _, pid := range shims {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	b.remove(pods[:2]...)
	for i := range 2 {
		if !dead(mains[i]) {
			t.Errorf("%s is gone and its process runs on", pods[i].Name)
		}
		if e := b.event(pods[i], "FailedKillPod"); !strings.Contains(e, fmt.Sprintf("its shim does not answer: killed its control group and the shim, process %d", shims[i])) {
			t.Errorf("the event is %q", e)
		}
	}
	for _, pid := range shims[2:] {
		if dead(pid) {
			t.Error("the shim of a pod that stays was ended")
		}
		_ = unix.Kill(pid, unix.SIGCONT)
	}
	b.remove(pods[2:]...)
}

// longest is how long a start takes while the shims are stopped.
func longest(t *testing.T, b *bed, shims []int, pods []*v1.Pod) time.Duration {
	t.Helper()
	var began time.Time
	b.comeback(func() {
		for _, pid := range shims {
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		began = time.Now()
	}, pods...)
	took := time.Since(began)
	for _, pid := range shims {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pods {
		b.phase(p, v1.PodRunning)
	}
	return took
}
