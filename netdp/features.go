package netdp

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// UnsupportedError names what this kernel lacks.
type UnsupportedError struct {
	Feature string
	Since   string // the Linux version that has it
	Err     error
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("use %s: this kernel does not have it (Linux %s or later does): %v", e.Feature, e.Since, e.Err)
}

func (e *UnsupportedError) Unwrap() error { return e.Err }

// ErrNotRoot means that the process may not load programs.
var ErrNotRoot = errors.New("loading eBPF programs and making network namespaces needs root; start with sudo")

// Feature is one thing the datapath needs of the kernel.
type Feature struct {
	Name  string
	Since string // the Linux version that has it
	probe func() error
}

// Features lists what the datapath needs, in the order the kernel gained it.
func Features() []Feature {
	return []Feature{
		{"hash maps", "3.19", func() error { return features.HaveMapType(ebpf.Hash) }},
		{"LRU hash maps", "4.10", func() error { return features.HaveMapType(ebpf.LRUHash) }},
		{"longest-prefix maps", "4.11", func() error { return features.HaveMapType(ebpf.LPMTrie) }},
		{"cgroup socket address programs", "4.17", func() error { return features.HaveProgramType(ebpf.CGroupSockAddr) }},
		{"socket storage maps", "5.2", func() error { return features.HaveMapType(ebpf.SkStorage) }},
		{"socket storage at connect", "5.9", helper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
		{"redirect to a peer device", "5.10", helper(ebpf.SchedCLS, asm.FnRedirectPeer)},
		{"network namespace cookies", "5.14", helper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie)},
		{"loops by callback", "5.17", helper(ebpf.SchedCLS, asm.FnLoop)},
		{"error codes from cgroup programs", "5.18", helper(ebpf.CGroupSockAddr, asm.FnSetRetval)},
	}
}

// Check returns nil when this kernel has the feature.
func (f Feature) Check() error {
	err := f.probe()
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("probe %s: %w; the process needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN", f.Name, err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return &UnsupportedError{Feature: f.Name, Since: f.Since, Err: err}
	case err != nil:
		return fmt.Errorf("probe %s: %w", f.Name, err)
	}
	return nil
}

// checkKernel names the first thing the datapath needs and does not find.
func checkKernel() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	for _, need := range Features() {
		if err := need.Check(); err != nil {
			return err
		}
	}
	return nil
}

func helper(t ebpf.ProgramType, f asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(t, f) }
}

// checkCgroup makes sure that dir is in a cgroup2 hierarchy.
func checkCgroup(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("inspect cgroup %s: %w", dir, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("use %s as cgroup root: it is not in a cgroup2 hierarchy; mount one (mount -t cgroup2 none DIR) and name it with --cgroup-root", dir)
	}
	return nil
}
