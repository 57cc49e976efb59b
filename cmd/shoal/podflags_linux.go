package main

import (
	"fmt"
	"time"

	"shoal/agent/shutdown"
)

// PodFlags are flags of `shoal start` about what pods may use here.
type PodFlags struct {
	Runtime []string `sep:"none" placeholder:"HANDLER=PATH" help:"An OCI runtime for RuntimeClasses with this handler, as in crun=/usr/bin/crun, or another containerd shim with its configuration, as in runsc=io.containerd.runsc.v1:/etc/runsc.toml; may be repeated."`

	ContainerLogMaxSize  string `default:"10Mi" placeholder:"SIZE" help:"Size at which a container's log file is rotated (default ${default})."`
	ContainerLogMaxFiles int    `default:"5" placeholder:"N" help:"Log files kept of a container, the one being written included (default ${default})."`

	Manifests string `placeholder:"DIR" help:"Pods in files here run on this host without the API's doing (default: manifests in the data directory)."`

	AllowedUnsafeSysctls []string `placeholder:"NAME" help:"Sysctls, or patterns that end in *, that pods may set beside the safe ones."`
	SeccompDefault       bool     `help:"Give pods without a seccomp profile the runtime's default."`
}

// ShutdownFlags are flags of `shoal start` about the end of pods when the machine
// shuts down.
type ShutdownFlags struct {
	ShutdownGracePeriod              time.Duration `default:"30s" placeholder:"DURATION" help:"How long pods may take to end when the machine shuts down; 0 leaves them to it (default ${default})."`
	ShutdownGracePeriodCriticalPods  time.Duration `default:"10s" placeholder:"DURATION" help:"How much of that critical pods get, which end last (default ${default})."`
	ShutdownGracePeriodByPodPriority string        `placeholder:"PRIORITY=TIME,..." help:"In place of the two above, how long pods of each priority get, the lowest first, as in 0=20s,100000=10s."`
}

// shutdownPeriods are how long pods get when the machine shuts down.
func (f *ShutdownFlags) shutdownPeriods() ([]shutdown.Period, error) {
	periods, err := shutdown.ParsePeriods(f.ShutdownGracePeriodByPodPriority)
	if err != nil {
		return nil, fmt.Errorf("--shutdown-grace-period-by-pod-priority: %w", err)
	}
	if f.ShutdownGracePeriod < 0 || f.ShutdownGracePeriodCriticalPods < 0 || f.ShutdownGracePeriodCriticalPods > f.ShutdownGracePeriod {
		return nil, fmt.Errorf("--shutdown-grace-period-critical-pods %s: want 0 to --shutdown-grace-period, %s", f.ShutdownGracePeriodCriticalPods, f.ShutdownGracePeriod)
	}
	if periods == nil {
		periods = shutdown.Periods(f.ShutdownGracePeriod, f.ShutdownGracePeriodCriticalPods)
	}
	return periods, nil
}
