package runner

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestPodRunsAndGoes(t *testing.T) {
	b := newBed(t)
	p := pod("one", `echo hello; `+sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	st := b.last(p.UID)
	t.Logf("%+v", st)
	b.remove(p)
}
