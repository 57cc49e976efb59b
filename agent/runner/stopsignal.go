package runner

import (
	"fmt"

	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// The real-time signals that are free for use, as glibc and the runtimes number
// them (signal(7)), and up to where names count from the first.
const (
	sigRTMin, sigRTMax = unix.Signal(34), unix.Signal(64)
	sigRTMiddle        = unix.Signal(49)
)

// stopSignal is what name means: a number, or a name with or without SIG.
// Without a meaning it is SIGTERM.
func stopSignal(name string) unix.Signal {
	if sig, err := signal.ParseSignal(name); err == nil && sig > 0 {
		return sig
	}
	return unix.SIGTERM
}

// stopSignalOf is what ends a container: its own stop signal (KEP-4960), or else
// its image's.
func stopSignalOf(c *v1.Container, image string) unix.Signal {
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		return stopSignal(string(*c.Lifecycle.StopSignal))
	}
	return stopSignal(image)
}

// signalName is a signal as the API has it; nil for one that it has no name for.
func signalName(sig unix.Signal) *v1.Signal {
	name := unix.SignalName(sig)
	switch {
	case sig == sigRTMin:
		name = "SIGRTMIN"
	case sig == sigRTMax:
		name = "SIGRTMAX"
	case sig > sigRTMin && sig <= sigRTMiddle:
		name = fmt.Sprintf("SIGRTMIN+%d", sig-sigRTMin)
	case sig > sigRTMiddle && sig < sigRTMax:
		name = fmt.Sprintf("SIGRTMAX-%d", sigRTMax-sig)
	}
	if name == "" {
		return nil
	}
	out := v1.Signal(name)
	return &out
}
