package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"shoal/test/harness"
)

// shared are directories that hosts have in common with the machine or hide.
var shared = []string{"/run", "/var/log", "/var/log/pods", "/var/lib", "/opt", "/etc", "/sys/fs/bpf"}

// holdings lists what this machine holds that a lab could leave behind: links,
// mounts, files, and the lab's own control groups.
func holdings(t *testing.T, group string) []string {
	t.Helper()
	var held []string
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		held = append(held, "link "+link.Name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		held = append(held, "mount "+strings.Fields(line)[4])
	}
	for _, dir := range append(shared, filepath.Dir(dir)) {
		entries, _ := os.ReadDir(dir) // not every machine has all of them
		for _, entry := range entries {
			held = append(held, "file "+filepath.Join(dir, entry.Name()))
		}
	}
	groups, err := harness.CgroupDirs(group)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range groups {
		held = append(held, "control group "+dir)
	}
	return held
}

// added returns what is in now and not in before.
func added(now, before []string) []string {
	return slices.DeleteFunc(slices.Clone(now), func(s string) bool { return slices.Contains(before, s) })
}

// inhabitants are the processes in a control group, with the namespaces they
// have apart from the machine.
type inhabitants struct {
	pids       []int
	namespaces map[string]bool
	// all are the processes of the machine. One that is not among them came
	// later, and its namespaces may have got the numbers of some that went.
	all map[int]bool
}

var kinds = []string{"net", "mnt", "pid", "uts", "ipc"}

func population(t *testing.T, group string) inhabitants {
	t.Helper()
	found := inhabitants{namespaces: map[string]bool{}}
	dirs, err := harness.CgroupDirs(group)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // it may be gone by now
		for word := range strings.FieldsSeq(string(procs)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			found.pids = append(found.pids, pid)
			for _, kind := range kinds {
				if ns := namespace(pid, kind); ns != "" && ns != namespace(os.Getpid(), kind) {
					found.namespaces[ns] = true
				}
			}
		}
	}
	slices.Sort(found.pids)
	found.pids = slices.Compact(found.pids)
	found.all = map[int]bool{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			found.all[pid] = true
		}
	}
	return found
}

func namespace(pid int, kind string) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	return name
}

// ended reports which of the inhabitants is left.
func (i inhabitants) ended() error {
	for _, pid := range i.pids {
		if harness.Alive(pid) {
			return fmt.Errorf("process %d is left", pid)
		}
	}
	return nil
}

// gone reports which of the inhabitants, and who else in their namespaces, is
// left.
func (i inhabitants) gone() error {
	if err := i.ended(); err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !i.all[pid] || !harness.Alive(pid) {
			continue
		}
		for _, kind := range kinds {
			if i.namespaces[namespace(pid, kind)] {
				command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				return fmt.Errorf("process %d (%q) is left in the lab's %s namespace", pid, command, kind)
			}
		}
	}
	return nil
}
