package agent

import (
	"fmt"
	"time"

	"shoal/agent/cgroup"
	"shoal/agent/reserve"
)

// Resources say what of this host pods may have. Zero values have the defaults
// named.
type Resources struct {
	PodPIDs int64 // bound on the tasks of one pod; default cgroup.DefaultPodPIDs, negative is none
	// Reserved is what the host keeps for itself, as reserve.ParseReserved reads
	// it; default nothing.
	Reserved string
	// EvictionHard are the thresholds at which pods are evicted, as
	// reserve.ParseThresholds reads them; default the kubelet's.
	EvictionHard string
	// EvictionTransition is how long a condition of pressure stays after it was
	// last met; default eviction.DefaultTransition.
	EvictionTransition time.Duration

	plan reserve.Plan // of the texts above
}

// fill sets what was left out and reads the texts.
func (r *Resources) fill() (err error) {
	if r.PodPIDs == 0 {
		r.PodPIDs = cgroup.DefaultPodPIDs
	}
	if r.plan.Reserved, err = reserve.ParseReserved(r.Reserved); err != nil {
		return fmt.Errorf("create agent: %w", err)
	}
	if r.plan.Thresholds, err = reserve.ParseThresholds(r.EvictionHard); err != nil {
		return fmt.Errorf("create agent: %w", err)
	}
	return nil
}
