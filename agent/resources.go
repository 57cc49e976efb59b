package agent

import "shoal/agent/cgroup"

// Resources say what of this host pods may have. Zero values have the defaults
// named.
type Resources struct {
	PodPIDs int64 // bound on the tasks of one pod; default cgroup.DefaultPodPIDs, negative is none
}

func (r *Resources) fill() {
	if r.PodPIDs == 0 {
		r.PodPIDs = cgroup.DefaultPodPIDs
	}
}
