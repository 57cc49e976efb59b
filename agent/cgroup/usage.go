package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Readings are of one group with all that is below it, and made when asked
// for: nothing is sampled, cached or rounded. A controller that does not know
// the group (a pod before its first container, or a kernel without it) leaves
// its reading zero; only a group that is nowhere is an error, fs.ErrNotExist.

// CPU is processor time a group has used since it was made.
type CPU struct {
	Nanoseconds uint64 // user and system together
	User        uint64 // nanoseconds
	System      uint64 // nanoseconds
	// The CFS quota's counts; all zero without a limit.
	Periods, ThrottledPeriods uint64
	ThrottledNanoseconds      uint64
}

// Memory is what a group holds now, in bytes, and what it has counted.
type Memory struct {
	Usage      uint64 // with the page cache
	WorkingSet uint64 // Usage without the inactive page cache: what eviction and `top` look at
	RSS        uint64 // anonymous memory
	Cache      uint64
	MappedFile uint64
	Swap       uint64
	Peak       uint64 // the most Usage was; 0 where the kernel does not tell
	Limit      uint64 // 0 is none
	Failures   uint64 // times the limit was met
	OOMKills   uint64 // processes the kernel killed for lack of memory
	PageFaults uint64
	MajorFault uint64
}

// PIDs are the tasks of a group.
type PIDs struct {
	Current uint64
	Limit   uint64 // 0 is none
}

// DeviceIO is what a group has read from and written to one block device.
type DeviceIO struct {
	Device                  string // "major:minor"
	ReadBytes, WrittenBytes uint64
	Reads, Writes           uint64
}

// Huge is what a group uses of one size of huge pages.
type Huge struct {
	Size  string // as the kernel names it, such as "2MB"
	Bytes uint64
}

// Root is the group below which all pods live.
func (t *Tree) Root() string { return t.root }

// QOSPath is the group of a class of pods; guaranteed pods are in Root itself.
func (t *Tree) QOSPath(qos v1.PodQOSClass) string { return t.qosPath(qos) }

// ContainerPath is the group of one container.
func (t *Tree) ContainerPath(qos v1.PodQOSClass, podUID, containerID string) string {
	return filepath.Join(t.PodPath(qos, podUID), containerID)
}

// CPU reads the group's processor time. "/" is the whole host.
func (t *Tree) CPU(group string) (CPU, error) {
	if t.Unified() {
		return t.unifiedCPU(group)
	}
	var c CPU
	var g reading
	c.Nanoseconds = g.number(t.file("cpuacct", group, "cpuacct.usage"))
	c.User = g.number(t.file("cpuacct", group, "cpuacct.usage_user"))
	c.System = g.number(t.file("cpuacct", group, "cpuacct.usage_sys"))
	g.pairs(t.file("cpu", group, "cpu.stat"), func(key string, n uint64) {
		switch key {
		case "nr_periods":
			c.Periods = n
		case "nr_throttled":
			c.ThrottledPeriods = n
		case "throttled_time":
			c.ThrottledNanoseconds = n
		}
	})
	return c, g.done("processor time", group)
}

func (t *Tree) unifiedCPU(group string) (CPU, error) {
	var c CPU
	var g reading
	const usec = 1000 // nanoseconds
	g.pairs(filepath.Join(t.unified, group, "cpu.stat"), func(key string, n uint64) {
		switch key {
		case "usage_usec":
			c.Nanoseconds = n * usec
		case "user_usec":
			c.User = n * usec
		case "system_usec":
			c.System = n * usec
		case "nr_periods":
			c.Periods = n
		case "nr_throttled":
			c.ThrottledPeriods = n
		case "throttled_usec":
			c.ThrottledNanoseconds = n * usec
		}
	})
	return c, g.done("processor time", group)
}

// Memory reads what the group holds. "/" is the whole host.
func (t *Tree) Memory(group string) (Memory, error) {
	if t.Unified() {
		return t.unifiedMemory(group)
	}
	var m Memory
	var g reading
	var inactive uint64
	m.Usage = g.number(t.file("memory", group, "memory.usage_in_bytes"))
	g.pairs(t.file("memory", group, "memory.stat"), func(key string, n uint64) {
		switch key {
		case "total_inactive_file":
			inactive = n
		case "total_rss":
			m.RSS = n
		case "total_cache":
			m.Cache = n
		case "total_mapped_file":
			m.MappedFile = n
		case "total_swap":
			m.Swap = n
		case "total_pgfault":
			m.PageFaults = n
		case "total_pgmajfault":
			m.MajorFault = n
		}
	})
	m.Peak = g.number(t.file("memory", group, "memory.max_usage_in_bytes"))
	m.Limit = limited(g.number(t.file("memory", group, "memory.limit_in_bytes")))
	m.Failures = g.number(t.file("memory", group, "memory.failcnt"))
	g.pairs(t.file("memory", group, "memory.oom_control"), func(key string, n uint64) {
		if key == "oom_kill" {
			m.OOMKills = n
		}
	})
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
	return m, g.done("memory", group)
}

func (t *Tree) unifiedMemory(group string) (Memory, error) {
	var m Memory
	var g reading
	dir := filepath.Join(t.unified, group)
	var inactive uint64
	g.pairs(filepath.Join(dir, "memory.stat"), func(key string, n uint64) {
		switch key {
		case "inactive_file":
			inactive = n
		case "anon":
			m.RSS = n
		case "file":
			m.Cache = n
		case "file_mapped":
			m.MappedFile = n
		case "pgfault":
			m.PageFaults = n
		case "pgmajfault":
			m.MajorFault = n
		}
	})
	if filepath.Clean(group) == "/" {
		// The root has statistics and no totals.
		m.Usage, m.Swap = hostMemory(t.meminfo)
		m.WorkingSet = m.Usage - min(inactive, m.Usage)
		return m, g.done("memory", group)
	}
	m.Usage = g.number(filepath.Join(dir, "memory.current"))
	m.Swap = g.number(filepath.Join(dir, "memory.swap.current"))
	m.Peak = g.number(filepath.Join(dir, "memory.peak")) // Linux 5.19
	m.Limit = g.number(filepath.Join(dir, "memory.max"))
	g.pairs(filepath.Join(dir, "memory.events"), func(key string, n uint64) {
		switch key {
		case "max":
			m.Failures = n
		case "oom_kill":
			m.OOMKills = n
		}
	})
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
	return m, g.done("memory", group)
}

// PIDs reads how many tasks the group has. The kernel does not count those of
// "/": that is fs.ErrNotExist.
func (t *Tree) PIDs(group string) (PIDs, error) {
	dir := filepath.Join(t.unified, group)
	if !t.Unified() {
		dir = t.file("pids", group, "")
	}
	var g reading
	p := PIDs{
		Current: g.number(filepath.Join(dir, "pids.current")),
		Limit:   g.number(filepath.Join(dir, "pids.max")),
	}
	return p, g.done("tasks", group)
}

// Huge reads the group's huge pages, one entry for each size of the kernel.
func (t *Tree) Huge(group string) ([]Huge, error) {
	dir, suffix := filepath.Join(t.unified, group), ".current"
	if !t.Unified() {
		if t.byController["hugetlb"] == "" {
			return nil, nil
		}
		dir, suffix = t.file("hugetlb", group, ""), ".usage_in_bytes"
	}
	files, err := filepath.Glob(filepath.Join(dir, "hugetlb.*"+suffix))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	var g reading
	var out []Huge
	for _, file := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hugetlb."), suffix)
		if strings.HasSuffix(size, ".rsvd") {
			continue
		}
		out = append(out, Huge{Size: size, Bytes: g.number(file)})
	}
	return out, g.done("huge pages", group)
}

// file is a controller's file of group on a v1 host. A controller that is not
// mounted has none: its file does not exist.
func (t *Tree) file(controller, group, name string) string {
	mount := t.byController[controller]
	if mount == "" {
		return ""
	}
	return filepath.Join(mount, group, name)
}

// limited turns the v1 kernel's word for "no limit", the largest number of
// whole pages, into 0.
func limited(n uint64) uint64 {
	if n > 1<<62 {
		return 0
	}
	return n
}

// reading collects what several files say of one group.
type reading struct {
	read  int   // files that were there
	first error // of those that were there and could not be read
}

// done is the error of the whole reading.
func (g *reading) done(what, group string) error {
	switch {
	case g.first != nil:
		return fmt.Errorf("read %s of control group %s: %w", what, group, g.first)
	case g.read == 0:
		return fmt.Errorf("read %s of control group %s: %w", what, group, fs.ErrNotExist)
	}
	return nil
}

func (g *reading) bytes(file string) []byte {
	if file == "" {
		return nil
	}
	data, err := readSmall(file)
	switch {
	case err == nil:
		g.read++
	case gone(err) || g.first != nil:
	default:
		g.first = err
	}
	return data
}

// number reads a file of one number; "max" is 0.
func (g *reading) number(file string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(string(g.bytes(file))), 10, 64)
	return n
}

// pairs reads a file of lines "key number".
func (g *reading) pairs(file string, each func(key string, n uint64)) {
	for line := range strings.Lines(string(g.bytes(file))) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			each(key, n)
		}
	}
}

// gone reports whether a file is not there, or its group went while it was
// read.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoDevice) }

// Processes are the ids of the processes in the group itself.
func (t *Tree) Processes(group string) ([]int, error) {
	file := filepath.Join(t.unified, group, "cgroup.procs")
	if !t.Unified() {
		file = t.file("memory", group, "cgroup.procs")
	}
	var g reading
	var out []int
	for line := range strings.Lines(string(g.bytes(file))) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			out = append(out, pid)
		}
	}
	return out, g.done("processes", group)
}
