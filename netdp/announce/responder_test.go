package announce

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stuckSocket takes nothing any more: its queue is full.
func stuckSocket(t *testing.T) *os.File {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(ends[1]) })
	for err == nil {
		_, err = unix.Write(ends[0], make([]byte, 64))
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(ends[0]), "stuck")
}

// An address that is asked for on no interface is not said to be answered for.
func TestAnswersOnNoInterface(t *testing.T) {
	r := New(Options{Logger: slog.New(slog.DiscardHandler)})
	defer r.Close()
	a := netip.MustParseAddr("192.0.2.7")
	hold := func(interfaces ...string) (error, bool) {
		err := r.Set(interfaces, []netip.Addr{a}, false)
		r.mu.Lock()
		r.addresses[a].phase = holding
		r.mu.Unlock()
		yes, _ := r.Answers(a)
		return err, yes
	}
	if err, yes := hold("missing0"); err == nil || yes {
		t.Errorf("on an interface that is missing: %v, answers %t", err, yes)
	}
	if err, yes := hold(); err != nil || !yes {
		t.Errorf("where there is no link to answer on: %v, answers %t", err, yes)
	}
}

// An interface that takes no frame keeps nobody waiting but what is sent.
func TestStuckInterface(t *testing.T) {
	r := New(Options{Logger: slog.New(slog.DiscardHandler)})
	a := netip.MustParseAddr("192.0.2.7")
	r.mu.Lock()
	r.ports["stuck"] = &port{mac: make(net.HardwareAddr, 6), arp: stuckSocket(t), groupsFD: -1}
	r.addresses[a] = newHeld(time.Now())
	r.startWork()
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for begun := false; !begun; time.Sleep(time.Millisecond) {
			r.mu.Lock()
			begun = r.addresses[a].left < probeTimes // what is next waits for the interface
			r.mu.Unlock()
		}
		r.has(a)
		r.Close()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("an interface that takes no frame blocks all others")
	}
}
