// Package cgroup lays out and limits the control groups of pods, on cgroup
// v1 and v2 alike, with the kubelet's layout: one group per QoS class below
// the root, one per pod below that, one per container (made by runc) inside.
//
// Always true: Create and Remove may be repeated; Remove takes a pod's group
// away in every hierarchy, also in those only runc made.
//
// The pod runner calls it, and whoever tells or judges what pods use. It does
// not touch container groups, except to read them.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

// Tree is the set of mounted cgroup hierarchies.
type Tree struct {
	// unified is the mount of a cgroup v2 only host, else empty.
	unified string
	// mounts has one directory per v1 hierarchy; controllers mounted
	// together share theirs.
	mounts []string
	// byController finds the v1 hierarchy of a controller.
	byController map[string]string
	// root is the group below which all pods live, such as "/shoal".
	root string
	// meminfo is /proc/meminfo, but for tests of a fake hierarchy.
	meminfo string
	// self is /proc/self/cgroup, but for the same tests.
	self string
	// KeepRoot leaves root itself to who made it; set it before use.
	KeepRoot bool

	qosOnce   sync.Mutex
	qosMade   map[v1.PodQOSClass]bool // guarded by qosOnce
	burstable map[string]uint64       // shares of burstable pods, by uid; guarded by qosOnce

	swapOnce sync.Once
	swap     bool // set by swapOnce
}

// Open finds the hierarchies in /proc/self/mounts. root is the group, below
// each hierarchy's own root, for everything shoal runs.
func Open(root string) (*Tree, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	defer f.Close()
	t := &Tree{root: filepath.Join("/", root), meminfo: "/proc/meminfo", self: "/proc/self/cgroup", byController: map[string]string{}, qosMade: map[v1.PodQOSClass]bool{}, burstable: map[string]uint64{}}
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		t.addMount(strings.Fields(scan.Text()))
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	if len(t.mounts) > 0 && t.unified != "" {
		// A hybrid host: the controllers are v1's, and runc makes groups in
		// the v2 hierarchy too.
		t.mounts = append(t.mounts, t.unified)
		t.unified = ""
	}
	if t.unified == "" && len(t.byController) == 0 {
		return nil, errors.New("find control groups: no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup")
	}
	return t, nil
}

func (t *Tree) addMount(fields []string) {
	if len(fields) < 4 {
		return
	}
	switch dir := fields[1]; fields[2] {
	case "cgroup2":
		if t.unified == "" {
			t.unified = dir
		}
	case "cgroup":
		t.mounts = append(t.mounts, dir)
		for _, o := range strings.Split(fields[3], ",") {
			switch o {
			case "cpu", "memory", "pids", "cpuacct", "blkio", "hugetlb", "freezer":
				t.byController[o] = dir
			}
		}
	}
}

// Unified reports whether the host has cgroup v2 only.
func (t *Tree) Unified() bool { return t.unified != "" }

// PodPath is the group of a pod, as it goes into a container's spec with the
// container id appended.
func (t *Tree) PodPath(qos v1.PodQOSClass, podUID string) string {
	return filepath.Join(t.qosPath(qos), "pod"+podUID)
}

func (t *Tree) qosPath(qos v1.PodQOSClass) string {
	switch qos {
	case v1.PodQOSBurstable:
		return filepath.Join(t.root, "burstable")
	case v1.PodQOSBestEffort:
		return filepath.Join(t.root, "besteffort")
	}
	return t.root
}

// Create makes the pod's group and sets its limits.
func (t *Tree) Create(qos v1.PodQOSClass, podUID string, limits Limits) error {
	if err := t.makeQOS(qos); err != nil {
		return err
	}
	group := t.PodPath(qos, podUID)
	if err := t.set(group, limits); err != nil {
		return fmt.Errorf("create control group %s: %w", group, err)
	}
	if qos == v1.PodQOSBurstable {
		return t.weigh(podUID, limits.CPUShares)
	}
	return nil
}

// Update changes the limits of a pod's group that exists; those that are zero
// stay as they are.
func (t *Tree) Update(qos v1.PodQOSClass, podUID string, limits Limits) error {
	group := t.PodPath(qos, podUID)
	if err := t.write(group, limits); err != nil {
		return fmt.Errorf("change control group %s: %w", group, err)
	}
	if qos == v1.PodQOSBurstable && limits.CPUShares > 0 {
		return t.weigh(podUID, limits.CPUShares)
	}
	return nil
}

func (t *Tree) set(group string, limits Limits) error {
	if t.Unified() {
		if err := t.enableUnified(group); err != nil {
			return err
		}
	} else {
		for _, c := range []string{"cpu", "memory", "pids", "hugetlb"} {
			if t.byController[c] == "" {
				continue
			}
			if err := os.MkdirAll(filepath.Join(t.byController[c], group), 0o755); err != nil {
				return err
			}
		}
	}
	return t.write(group, limits)
}

// write sets limits of a group that is there. A controller the host lacks
// limits nothing; what pods ask of it was refused before.
func (t *Tree) write(group string, limits Limits) error {
	if t.Unified() {
		if !t.LimitsHuge() {
			limits.HugePages = nil
		}
		return writeFiles(func(string) string { return filepath.Join(t.unified, group) }, limits.Unified())
	}
	return writeFiles(func(controller string) string {
		if t.byController[controller] == "" {
			return ""
		}
		return filepath.Join(t.byController[controller], group)
	}, limits.V1())
}

// enableUnified makes group and hands the controllers down the path to it.
func (t *Tree) enableUnified(group string) error {
	dir := t.unified
	for _, part := range strings.Split(strings.Trim(group, "/"), "/") {
		for _, c := range []string{"+cpu", "+memory", "+pids", "+cpuset", "+io", "+hugetlb"} {
			err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(c), 0)
			if err != nil && (c == "+cpu" || c == "+memory" || c == "+pids") {
				return fmt.Errorf("hand controller %s down from %s: %w", c[1:], dir, err)
			}
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// writeFiles writes settings keyed "controller/file", but those whose
// controller has no directory.
func writeFiles(dir func(controller string) string, settings map[string]string) error {
	for key, value := range settings {
		controller, file, _ := strings.Cut(key, "/")
		at := dir(controller)
		if at == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(at, file), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes the pod's group away everywhere. Groups that a crash left inside
// go with it, and so does, by SIGKILL, what still runs in them.
func (t *Tree) Remove(qos v1.PodQOSClass, podUID string) error {
	var weight error
	if qos == v1.PodQOSBurstable {
		if weight = t.weigh(podUID, 0); errors.Is(weight, fs.ErrNotExist) {
			weight = nil
		}
	}
	dirs := t.dirs(t.PodPath(qos, podUID))
	err := removeAll(dirs)
	if errors.Is(err, syscall.EBUSY) {
		killAll(dirs)
		err = removeAll(dirs)
	}
	return errors.Join(weight, err)
}

func removeAll(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// dirs is group in every hierarchy. runc makes container groups in all of
// them, with the pod's as parent.
func (t *Tree) dirs(group string) []string {
	if t.Unified() {
		return []string{filepath.Join(t.unified, group)}
	}
	out := make([]string, 0, len(t.mounts)+1)
	for _, m := range t.mounts {
		out = append(out, filepath.Join(m, group))
	}
	return out
}

func removeTree(dir string) error {
	err := syscall.Rmdir(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return fmt.Errorf("remove control group %s: %w", dir, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			_ = removeTree(filepath.Join(dir, e.Name()))
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove control group %s: %w", dir, err)
	}
	return nil
}

// Pods lists the uids of pods that have a group, with their class.
func (t *Tree) Pods() map[string]v1.PodQOSClass {
	base := t.unified
	if base == "" {
		base = t.byController["memory"]
	}
	out := map[string]v1.PodQOSClass{}
	for _, qos := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		entries, err := os.ReadDir(filepath.Join(base, t.qosPath(qos)))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
				out[uid] = qos
			}
		}
	}
	return out
}

// RemoveRoot takes away the groups above the pods once no pod is left. A group
// somebody else's processes are in stays.
func (t *Tree) RemoveRoot() error {
	t.qosOnce.Lock()
	defer t.qosOnce.Unlock()
	t.qosMade = map[v1.PodQOSClass]bool{}
	var errs []error
	for _, dir := range t.dirs(t.root) {
		if t.root == "/" {
			continue
		}
		remove := removeTree
		if t.KeepRoot {
			remove = removeBelow
		}
		if err := remove(dir); !errors.Is(err, syscall.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeBelow removes the classes of pods and leaves dir, with whatever else
// somebody keeps in it.
func removeBelow(dir string) error {
	var errs []error
	for _, class := range []v1.PodQOSClass{v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		errs = append(errs, removeTree(filepath.Join(dir, strings.ToLower(string(class)))))
	}
	return errors.Join(errs...)
}

// OOMKilled reports whether the kernel killed a process of the container's
// group, below the pod's path, for lack of memory. A group already gone
// answers no.
func (t *Tree) OOMKilled(podPath, containerID string) bool {
	file := filepath.Join(t.byController["memory"], podPath, containerID, "memory.oom_control")
	if t.Unified() {
		file = filepath.Join(t.unified, podPath, containerID, "memory.events")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	return oomKills(string(data)) > 0
}

func oomKills(text string) int {
	for _, line := range strings.Split(text, "\n") {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, err := strconv.Atoi(strings.TrimSpace(n))
			if err == nil {
				return kills
			}
		}
	}
	return 0
}
