package netdp

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"

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
		{"tunnels chosen by programs", "4.3", helper(ebpf.SchedCLS, asm.FnSkbSetTunnelKey)},
		{"maps with a value for each processor", "4.6", func() error { return features.HaveMapType(ebpf.PerCPUArray) }},
		{"LRU hash maps", "4.10", func() error { return features.HaveMapType(ebpf.LRUHash) }},
		{"longest-prefix maps", "4.11", func() error { return features.HaveMapType(ebpf.LPMTrie) }},
		{"cgroup socket address programs", "4.17", func() error { return features.HaveProgramType(ebpf.CGroupSockAddr) }},
		{"programs when a port is bound", "4.17", attaches(ebpf.CGroupSock, ebpf.AttachCGroupInet4PostBind)},
		{"route lookups", "4.18", helper(ebpf.SchedCLS, asm.FnFibLookup)},
		{"programs when a datagram is received", "5.2", attaches(ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Recvmsg)},
		{"instructions of version 3", "5.1", features.HaveV3ISA},
		{"socket storage maps", "5.2", func() error { return features.HaveMapType(ebpf.SkStorage) }},
		{"programs of more than 4096 instructions", "5.2", features.HaveLargeInstructions},
		{"loops", "5.3", features.HaveBoundedLoops},
		{"maps read and written in batches", "5.6", batches},
		{"ring buffers", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) }},
		{"programs when a socket's peer is asked for", "5.8", attaches(ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetPeername)},
		{"socket storage at connect", "5.9", helper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
		{"redirect to a peer device", "5.10", helper(ebpf.SchedCLS, asm.FnRedirectPeer)},
		{"redirect to a neighbour", "5.10", helper(ebpf.SchedCLS, asm.FnRedirectNeigh)},
		{"tail calls in programs with subprograms", subprogramsSince, tailCallWithSubprogram},
		{"network namespace cookies", "5.14", helper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie)},
		{"loops by callback", "5.17", helper(ebpf.SchedCLS, asm.FnLoop)},
		{"error codes from cgroup programs", "5.18", helper(ebpf.CGroupSockAddr, asm.FnSetRetval)},
	}
}

// subprogramsSince depends on who compiles the programs for the processor: on arm64
// the kernel learnt it late.
var subprogramsSince = map[bool]string{false: "5.10", true: "6.0"}[runtime.GOARCH == "arm64"]

// newestKernel has everything that Features lists.
var newestKernel = map[bool]string{false: "5.18", true: "6.0"}[runtime.GOARCH == "arm64"]

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

// attaches probes for a hook with a program that does nothing.
func attaches(t ebpf.ProgramType, at ebpf.AttachType) func() error {
	return func() error {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "probe", Type: t, AttachType: at, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		})
		if errors.Is(err, unix.EINVAL) {
			return ebpf.ErrNotSupported
		}
		if err != nil {
			return err
		}
		return p.Close()
	}
}

// tailCallWithSubprogram probes with a program that calls a function of its own,
// and ends with another program, as those that hand packets to pods do.
func tailCallWithSubprogram() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "probe", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "probe", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Call.Label("subprogram"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, m.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("subprogram"),
		asm.Return(),
	}})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w: %w", ebpf.ErrNotSupported, err)
	}
	if err != nil {
		return err
	}
	return p.Close()
}

// batches probes with a map of its own.
func batches() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "probe", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 2})
	if err != nil {
		return err
	}
	defer m.Close()
	_, err = m.BatchUpdate([]uint32{1, 2}, []uint32{1, 2}, nil)
	if errors.Is(err, unix.EINVAL) {
		return ebpf.ErrNotSupported
	}
	return err
}

// lacking names what programs and maps use and this kernel does not have, by the
// kernel's own names: it is asked when they were refused, and so is complete
// whatever Features lists.
func lacking(spec *ebpf.CollectionSpec) []string {
	found := map[string]bool{}
	note := func(what string, err error) {
		if errors.Is(err, ebpf.ErrNotSupported) {
			found[what] = true
		}
	}
	for _, m := range spec.Maps {
		note(fmt.Sprintf("map type %s", m.Type), features.HaveMapType(m.Type))
	}
	for _, p := range spec.Programs {
		note(fmt.Sprintf("program type %s", p.Type), features.HaveProgramType(p.Type))
		for _, ins := range p.Instructions {
			if ins.IsBuiltinCall() {
				fn := asm.BuiltinFunc(ins.Constant)
				note(fmt.Sprintf("helper %s in programs of type %s", fn, p.Type), features.HaveProgramHelper(p.Type, fn))
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
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
