package runner

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

// BenchmarkExec is one command after another in a running container.
func BenchmarkExec(b *testing.B) {
	bed := newBed(b)
	p := pod("exec", sleeper)
	bed.runner.Set(p)
	bed.phase(p, v1.PodRunning)
	for b.Loop() {
		bed.run(p, "true")
	}
	bed.remove(p)
}
