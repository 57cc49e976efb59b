package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// fake writes a hierarchy's files below a directory of the test.
func fake(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestUsageUnified(t *testing.T) {
	dir := fake(t, map[string]string{
		"cpu.stat":                         "usage_usec 9\n",
		"memory.stat":                      "anon 1024\nfile 2048\ninactive_file 1000\n",
		"meminfo":                          "MemTotal: 100 kB\nMemFree: 40 kB\nSwapTotal: 8 kB\nSwapFree: 5 kB\n",
		"shoal/podu/c/cpu.stat":            "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 7\nnr_throttled 3\nthrottled_usec 20\nnr_bursts 0\n",
		"shoal/podu/c/memory.current":      "1000000\n",
		"shoal/podu/c/memory.stat":         "anon 300000\nfile 600000\nfile_mapped 5\ninactive_file 200000\npgfault 11\npgmajfault 2\n",
		"shoal/podu/c/memory.swap.current": "4096\n",
		"shoal/podu/c/memory.peak":         "2000000\n",
		"shoal/podu/c/memory.max":          "4000000\n",
		"shoal/podu/c/memory.events":       "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\n",
		"shoal/podu/c/pids.current":        "4\n",
		"shoal/podu/c/pids.max":            "max\n",
		"shoal/podu/c/io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n253:0 rbytes=x wbytes=9\n",
		"shoal/podu/c/hugetlb.2MB.current": "2097152\n",
		"shoal/podu/c/hugetlb.2MB.max":     "max\n",
		"shoal/podu/old/memory.current":    "10\n", // a kernel without swap and peak
		"shoal/podu/old/memory.stat":       "inactive_file 30\n",
	})
	tree := &Tree{unified: dir, root: "/shoal", meminfo: filepath.Join(dir, "meminfo")}
	group := tree.ContainerPath(v1.PodQOSGuaranteed, "u", "c")
	check := func(what string, got any, err error, want any) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", what, got, err, want)
		}
	}
	cpu, err := tree.CPU(group)
	check("cpu", cpu, err, CPU{Nanoseconds: 1_500_000, User: 1_000_000, System: 500_000, Periods: 7, ThrottledPeriods: 3, ThrottledNanoseconds: 20_000})
	memory, err := tree.Memory(group)
	check("memory", memory, err, Memory{Usage: 1_000_000, WorkingSet: 800_000, RSS: 300_000, Cache: 600_000, MappedFile: 5,
		Swap: 4096, Peak: 2_000_000, Limit: 4_000_000, Failures: 5, OOMKills: 1, PageFaults: 11, MajorFault: 2})
	pids, err := tree.PIDs(group)
	check("pids", pids, err, PIDs{Current: 4})
	io, err := tree.IO(group)
	check("io", io, err, []DeviceIO{{Device: "8:0", ReadBytes: 1, WrittenBytes: 2, Reads: 3, Writes: 4}, {Device: "253:0", WrittenBytes: 9}})
	huge, err := tree.Huge(group)
	check("huge pages", huge, err, []Huge{{"2MB", 2 << 20}})

	memory, err = tree.Memory("/")
	check("memory of the host", memory, err, Memory{Usage: 60 << 10, WorkingSet: 60<<10 - 1000, RSS: 1024, Cache: 2048, Swap: 3 << 10})
	memory, err = tree.Memory("/shoal/podu/old")
	check("more inactive than used", memory, err, Memory{Usage: 10})
	if _, err = tree.Memory("/shoal/podgone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a group that is not there: %v", err)
	}
}

func TestUsageV1Files(t *testing.T) {
	dir := fake(t, map[string]string{
		"blkio/g/blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\n8:0 Sync 5\n8:0 Total 30\n8:16 Read 1\nTotal 31\n",
		"blkio/g/blkio.throttle.io_serviced_recursive":      "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
		"memory/g/memory.limit_in_bytes":                    "9223372036854771712\n",
		"memory/g/memory.usage_in_bytes":                    "garbage\n",
		"cpuacct/g/cpuacct.usage":                           "77\n",
	})
	tree := &Tree{root: "/", byController: map[string]string{}}
	for _, c := range []string{"blkio", "memory", "cpuacct"} {
		tree.byController[c] = filepath.Join(dir, c)
	}
	io, err := tree.IO("/g")
	want := []DeviceIO{{Device: "8:0", ReadBytes: 10, WrittenBytes: 20, Reads: 1, Writes: 2}, {Device: "8:16", ReadBytes: 1}}
	if err != nil || !reflect.DeepEqual(io, want) {
		t.Errorf("io: %+v, %v", io, err)
	}
	if m, err := tree.Memory("/g"); err != nil || m != (Memory{}) {
		t.Errorf("memory without a limit: %+v, %v", m, err)
	}
	if c, err := tree.CPU("/g"); err != nil || c.Nanoseconds != 77 {
		t.Errorf("cpu: %+v, %v", c, err)
	}
	if _, err := tree.PIDs("/g"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a controller that is not mounted: %v", err)
	}
	if huge, err := tree.Huge("/g"); err != nil || huge != nil {
		t.Errorf("huge pages of a kernel without: %v, %v", huge, err)
	}
}

// TestUsageOfProcess reads what a real process uses of its group.
func TestUsageOfProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make control groups")
	}
	tree, err := Open(fmt.Sprintf("/shoalusage%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.RemoveRoot(); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Create(v1.PodQOSBurstable, "u", ForPod(asks(list("", ""), list("1", "64Mi")), DefaultPodPIDs)); err != nil {
		t.Fatal(err)
	}
	group := tree.PodPath(v1.PodQOSBurstable, "u")
	ready := make(chan struct{})
	cmd := exec.Command("/bin/sh", "-c", "read x; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read x")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	dirs := []string{filepath.Join(tree.unified, group)}
	if !tree.Unified() {
		dirs = nil
		for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
			dirs = append(dirs, tree.file(c, group, ""))
		}
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		defer close(ready)
		_, _ = in.Write([]byte("\n"))
		_, _ = out.Read(make([]byte, 5))
	}()
	<-ready
	cpu, err := tree.CPU(group)
	if err != nil || cpu.Nanoseconds == 0 {
		t.Errorf("cpu: %+v, %v", cpu, err)
	}
	memory, err := tree.Memory(group)
	if err != nil || memory.Usage == 0 || memory.WorkingSet > memory.Usage || memory.Limit != 64<<20 {
		t.Errorf("memory: %+v, %v", memory, err)
	}
	if pids, err := tree.PIDs(group); err != nil || pids != (PIDs{Current: 1, Limit: DefaultPodPIDs}) {
		t.Errorf("pids: %+v, %v", pids, err)
	}
	if _, err := tree.IO(group); err != nil {
		t.Errorf("io: %v", err)
	}
	_ = in.Close()
	_ = cmd.Wait()
	if host, err := tree.CPU("/"); err != nil || host.Nanoseconds < cpu.Nanoseconds {
		t.Errorf("cpu of the host: %+v, %v", host, err)
	}
	if host, err := tree.Memory("/"); err != nil || host.WorkingSet == 0 {
		t.Errorf("memory of the host: %+v, %v", host, err)
	}
}

func BenchmarkUsage(b *testing.B) {
	tree, err := Open("/shoal")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = tree.CPU("/")
		_, _ = tree.Memory("/")
	}
}
