package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	containerdclient "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/test/harness"
)

// inContainerd calls with a client of the world's containerd.
func inContainerd(t *testing.T, call func(ctx context.Context, c *containerdclient.Client)) {
	t.Helper()
	c, err := containerdclient.New(containerd.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	call(namespaces.WithNamespace(t.Context(), daemon.Namespace), c)
}

// liveTasks lists "container pid" of every running task.
func liveTasks(t *testing.T) []string {
	t.Helper()
	var tasks []string
	inContainerd(t, func(ctx context.Context, c *containerdclient.Client) {
		containers, err := c.Containers(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, container := range containers {
			task, err := container.Task(ctx, nil)
			if err == nil && harness.Alive(int(task.Pid())) {
				tasks = append(tasks, fmt.Sprintf("%s %d", container.ID(), task.Pid()))
			}
		}
	})
	slices.Sort(tasks)
	return tasks
}

// killContainer ends the process of a container, given its id as in a status.
func killContainer(t *testing.T, id string) {
	t.Helper()
	pid := containerPid(t, id)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func containerPid(t *testing.T, id string) int {
	t.Helper()
	pid := 0
	inContainerd(t, func(ctx context.Context, c *containerdclient.Client) {
		container, err := c.LoadContainer(ctx, strings.TrimPrefix(id, "containerd://"))
		if err != nil {
			t.Fatal(err)
		}
		task, err := container.Task(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		pid = int(task.Pid())
	})
	return pid
}

// countHeld counts what pods make the host hold, by kind. Each kind has at
// least one per running pod.
func countHeld(t *testing.T) map[string]int {
	t.Helper()
	held := map[string]int{
		"processes":   countProcesses(t),
		"mounts":      countMounts(t),
		"cgroups":     countCgroups(t),
		"links":       countLinks(t),
		"directories": len(directories(t)),
		"map entries": countMapEntries(t),
		"run files":   countRunFiles(t),
	}
	inContainerd(t, func(ctx context.Context, c *containerdclient.Client) {
		containers, err := c.Containers(ctx)
		if err != nil {
			t.Fatal(err)
		}
		held["containers"] = len(containers)
	})
	held["snapshots"] = len(snapshotNames(t))
	return held
}

// snapshotNames lists containerd's snapshots, those of images included.
func snapshotNames(t *testing.T) []string {
	t.Helper()
	var names []string
	inContainerd(t, func(ctx context.Context, c *containerdclient.Client) {
		err := c.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Kind.String()+" "+info.Name)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	return names
}

// countProcesses counts the processes in this world, other than tests.
func countProcesses(t *testing.T) int {
	t.Helper()
	return len(processesIn(t, world.CgroupDir))
}

// commands lists what the processes in this world are, "pid command line".
func commands(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pid := range processesIn(t, world.CgroupDir) {
		line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		if ignoreGone(err) != nil {
			t.Fatal(err)
		}
		all = append(all, pid+" "+strings.ReplaceAll(string(line), "\x00", " "))
	}
	return all
}

func processesIn(t *testing.T, dir string) []string {
	var pids []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return ignoreGone(err)
		}
		data, err := os.ReadFile(path)
		pids = append(pids, strings.Fields(string(data))...)
		return ignoreGone(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func countMounts(t *testing.T) int {
	t.Helper()
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	count := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		count++
	}
	return count
}

func countCgroups(t *testing.T) int {
	t.Helper()
	dirs, err := harness.CgroupDirs(world.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	return len(dirs)
}

func countLinks(t *testing.T) int {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	return len(links)
}

// directories lists those of the daemon.
func directories(t *testing.T) []string {
	t.Helper()
	return entries(t, daemon.DataDir, fs.DirEntry.IsDir)
}

// entries lists what is at or below dir and counts.
func entries(t *testing.T, dir string, counts func(fs.DirEntry) bool) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && counts(entry) {
			paths = append(paths, path)
		}
		return ignoreGone(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func ignoreGone(err error) error {
	if err != nil && (os.IsNotExist(err) || strings.Contains(err.Error(), "no such device")) {
		return nil
	}
	return err
}

// cgroupLimits are a container's limits as the kernel holds them: bytes, and
// cores as a decimal fraction.
type cgroupLimits struct{ memory, cpu string }

// hostCgroupValues reads the limits of a pod's only container from the
// hierarchy its process is in, whichever version that is.
func hostCgroupValues(t *testing.T, ns, name string) cgroupLimits {
	t.Helper()
	id := kubectl(t, "get", "pod", name, "--namespace", ns, "--output", "jsonpath={.status.containerStatuses[0].containerID}")
	file, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", containerPid(t, id)))
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(file)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for controller := range strings.SplitSeq(fields[1], ",") {
			paths[controller] = fields[2]
		}
	}
	read := func(path ...string) string {
		data, err := os.ReadFile(filepath.Join(append([]string{"/sys/fs/cgroup"}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	share := func(quota, period string) string {
		q, _ := strconv.ParseFloat(quota, 64)
		p, _ := strconv.ParseFloat(period, 64)
		return strconv.FormatFloat(q/p, 'g', -1, 64)
	}
	if memory, v1 := paths["memory"]; v1 {
		return cgroupLimits{
			memory: read("memory", memory, "memory.limit_in_bytes"),
			cpu:    share(read("cpu", paths["cpu"], "cpu.cfs_quota_us"), read("cpu", paths["cpu"], "cpu.cfs_period_us")),
		}
	}
	quota := strings.Fields(read(paths[""], "cpu.max"))
	return cgroupLimits{memory: read(paths[""], "memory.max"), cpu: share(quota[0], quota[1])}
}
