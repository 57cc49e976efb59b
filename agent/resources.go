package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"shoal/agent/cgroup"
	"shoal/agent/reserve"
)

// Resources say what of this host pods may have. Zero values have the defaults
// named.
type Resources struct {
	PodPIDs int64 `json:"podPIDs,omitempty"` // bound on the tasks of one pod; default cgroup.DefaultPodPIDs, negative is none
	// Reserved is what the host keeps for itself, as reserve.ParseReserved reads
	// it; default nothing.
	Reserved string `json:"reserved,omitempty"`
	// EvictionHard are the thresholds at which pods are evicted, as
	// reserve.ParseThresholds reads them; default the kubelet's.
	EvictionHard string `json:"evictionHard,omitempty"`
	// EvictionTransition is how long a condition of pressure stays after it was
	// last met; default eviction.DefaultTransition.
	EvictionTransition time.Duration `json:"evictionTransition,omitempty"`

	plan reserve.Plan // of the texts above
}

// Check reports a text that cannot be read, or that leaves nothing for pods. The
// data directory need not exist yet.
func (r Resources) Check(dataDir string) error {
	if err := r.fill(); err != nil {
		return err
	}
	for parent := filepath.Dir(dataDir); parent != dataDir; parent = filepath.Dir(dataDir) {
		if _, err := os.Stat(dataDir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dataDir = parent // where it will be made
	}
	return r.plan.Check(reserve.Capacity(dataDir, MaxPods))
}

// fill sets what was left out and reads the texts.
func (r *Resources) fill() (err error) {
	if r.PodPIDs == 0 {
		r.PodPIDs = cgroup.DefaultPodPIDs
	}
	if r.plan.Reserved, err = reserve.ParseReserved(r.Reserved); err != nil {
		return err
	}
	if r.plan.Thresholds, err = reserve.ParseThresholds(r.EvictionHard); err != nil {
		return err
	}
	return nil
}
