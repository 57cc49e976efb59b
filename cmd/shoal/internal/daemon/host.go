//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"k8s.io/apimachinery/pkg/util/validation"
)

var errNotRoot = errors.New("shoal's daemon must run as root: it makes network namespaces, loads BPF programs and drives containerd; run `sudo shoal start`")

func checkRoot() error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	return nil
}

func checkNodeName(name string) error {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return fmt.Errorf("node name %q: %s; give another with --name", name, strings.Join(problems, "; "))
	}
	return nil
}

// cgroup2Mount finds the unified hierarchy, whether it is the only one or sits
// beside cgroup v1 controllers.
func cgroup2Mount() (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	if len(mounts) == 0 {
		return "", errors.New("no cgroup2 hierarchy is mounted, and services are forwarded by BPF programs attached to one; mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified` (Linux 4.5 or later), or name it with --cgroup-root")
	}
	return mounts[0].Mountpoint, nil
}

// defaultPodGroup holds the groups of all pods when the whole hierarchy is ours.
const defaultPodGroup = "/shoal"

// podGroup names the control group of pods from the root of every hierarchy. It
// is the place that root has in the cgroup2 hierarchy, so that the programs
// attached there see the pods.
func podGroup(root string) (string, error) {
	mount, err := cgroup2Mount()
	if err != nil {
		return "", err
	}
	below, err := filepath.Rel(mount, root)
	if err != nil || below == ".." || strings.HasPrefix(below, "../") {
		return "", fmt.Errorf("--cgroup-root %s is not below %s, where cgroup2 is mounted; give a directory there", root, mount)
	}
	if below == "." {
		return defaultPodGroup, nil
	}
	return filepath.Join("/", below), nil
}
