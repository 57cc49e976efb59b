package runner

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// waitFor waits for something that nobody reports, such as a file.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(waitLimit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", waitLimit, what)
		}
	}
}

// shims are the processes that are parents of the pod's containers.
func (b *bed) shims(p *v1.Pod) map[int]bool {
	out := map[int]bool{}
	for _, name := range []string{"main", "other"} {
		ref, ok := b.runner.Container(p.UID, name)
		if !ok {
			continue
		}
		if pid := b.pid(ref.ID); pid > 0 {
			out[parent(pid)] = true
		}
	}
	return out
}

// pid is the first process of a container, from the shim's own file.
func (b *bed) pid(id string) int {
	files, _ := filepath.Glob("/tmp/shoal-ctrd-*/state/io.containerd.runtime.v2.task/*/" + id + "/init.pid")
	if len(files) != 1 {
		return 0
	}
	data, _ := os.ReadFile(files[0])
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

func parent(pid int) int {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}
