package runner

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"

	"shoal/netdp/driver"
)

// stuck is a network that cannot be taken down, as without its plugins.
type stuck struct {
	driver.Driver
	err atomic.Pointer[error]
}

func (s *stuck) Detach(ctx context.Context, uid string) error {
	if err := s.err.Load(); err != nil {
		return *err
	}
	return s.Driver.Detach(ctx, uid)
}

// TestStopAllSaysWhatStays: it does not try for ever, ends all containers, and names
// the pod of which something is left, with the reason.
func TestStopAllSaysWhatStays(t *testing.T) {
	b := newBed(t)
	network := &stuck{Driver: b.runner.Network}
	b.runner.Network = network
	p, other := pod("stays", sleeper), pod("goes", sleeper)
	other.Spec.HostNetwork = true
	for _, p := range []*v1.Pod{p, other} {
		b.runner.Set(p)
		b.phase(p, v1.PodRunning)
	}
	gone := errors.New("its plugin is gone")
	network.err.Store(&gone)
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	err := b.runner.StopAll(ctx)
	if !errors.Is(err, gone) || strings.Count(err.Error(), gone.Error()) != 1 || !strings.Contains(err.Error(), "pod test/stays: detach network") || strings.Contains(err.Error(), "goes") {
		t.Errorf("stopped: %v", err)
	}
	if n := b.counts()["containers"]; n > 0 {
		t.Errorf("%d containers are left", n)
	}
	if uids, err := b.network.Attached(ctx); err != nil || len(uids) != 1 {
		t.Errorf("attached: %v (%v)", uids, err)
	}
	network.err.Store(nil)
	if err := b.runner.StopAll(ctx); err != nil {
		t.Errorf("stopped again: %v", err)
	}
	if uids, err := b.network.Attached(ctx); err != nil || len(uids) > 0 {
		t.Errorf("attached: %v (%v)", uids, err)
	}
}
