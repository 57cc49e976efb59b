package runner

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStopSignals(t *testing.T) {
	for _, test := range []struct {
		own   v1.Signal
		image string
		want  unix.Signal
	}{
		{"", "", unix.SIGTERM},
		{"", "SIGQUIT", unix.SIGQUIT},
		{"", "quit", unix.SIGQUIT},
		{"", "3", unix.SIGQUIT},
		{"", "nonsense", unix.SIGTERM},
		{"", "0", unix.SIGTERM},
		{"", "SIGRTMIN+3", 37}, // systemd's
		{v1.SIGUSR1, "SIGQUIT", unix.SIGUSR1},
		{v1.SIGRTMINPLUS1, "", 35},
		{v1.SIGRTMAXMINUS14, "", 50},
	} {
		c := &v1.Container{}
		if test.own != "" {
			c.Lifecycle = &v1.Lifecycle{StopSignal: &test.own}
		}
		if got := stopSignalOf(c, test.image); got != test.want {
			t.Errorf("own %q, image's %q: %d, want %d", test.own, test.image, got, test.want)
		}
	}
	for sig := unix.Signal(1); sig <= 64; sig++ {
		name := signalName(sig)
		switch {
		case name != nil && stopSignal(string(*name)) != sig:
			t.Errorf("%d is named %s, which is %d", sig, *name, stopSignal(string(*name)))
		case name == nil && sig != 32 && sig != 33: // glibc's own
			t.Errorf("%d has no name", sig)
		}
	}
	for sig, want := range map[unix.Signal]v1.Signal{unix.SIGTERM: v1.SIGTERM, 34: v1.SIGRTMIN, 49: v1.SIGRTMINPLUS15, 50: v1.SIGRTMAXMINUS14, 64: v1.SIGRTMAX} {
		if got := signalName(sig); got == nil || *got != want {
			t.Errorf("%d: %v, want %s", sig, got, want)
		}
	}
}

// stopSignalPod ends by the signal that it names.
func stopSignalPod(b *bed) {
	p := pod("told", `trap 'echo asked; exit 0' USR1; trap 'echo terminated' TERM; echo args; while :; do sleep 1; done`, func(p *v1.Pod) {
		p.Spec.OS = &v1.PodOS{Name: v1.Linux}
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{StopSignal: ptr(v1.SIGUSR1)}
		p.Spec.TerminationGracePeriodSeconds = ptr(int64(20))
	})
	b.runner.Set(p)
	b.container(p, "main", "its signal", func(c v1.ContainerStatus) bool { return c.StopSignal != nil && *c.StopSignal == v1.SIGUSR1 })
	waitFor(b.t, "the script", func() bool { return strings.Contains(b.logs(p, "main", 0), "F args") })
	deleted := p.DeepCopy()
	deleted.DeletionTimestamp, deleted.DeletionGracePeriodSeconds = ptr(metav1.Now()), ptr(int64(20))
	b.runner.Set(deleted)
	c := b.container(p, "main", "ended", func(c v1.ContainerStatus) bool { return c.State.Terminated != nil })
	if c.State.Terminated.ExitCode != 0 {
		b.t.Errorf("state: %+v", c.State.Terminated)
	}
	b.until(b.t, "gone", func() bool { return b.gone[p.UID] })
}
