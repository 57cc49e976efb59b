package runner

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// TestSharedProcesses: containers see each other's processes, over the
// daemon's restart and a container's; the first process gives nothing away.
func TestSharedProcesses(t *testing.T) {
	b := newBed(t)
	p := pod("shared", sleeper, func(p *v1.Pod) {
		p.Spec.ShareProcessNamespace = ptr(true)
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{Privileged: ptr(true)}
		other := *p.Spec.Containers[0].DeepCopy()
		other.Name, other.Command, other.SecurityContext = "other", []string{"sleep", "54321"}, nil
		p.Spec.Containers = append(p.Spec.Containers, other)
	})
	b.runner.Set(p)
	b.container(p, "other", "running", func(c v1.ContainerStatus) bool { return c.State.Running != nil })
	b.phase(p, v1.PodRunning)
	const find = `for f in /proc/[0-9]*/cmdline; do grep -q "^sleep.54321" $f 2>/dev/null && echo $f; done; true`
	see := func() string {
		t.Helper()
		return strings.Trim(strings.TrimSuffix(strings.TrimSpace(b.run(p, "sh", "-c", find)), "/cmdline"), "/proc")
	}
	var number string
	waitFor(t, "the other container's process", func() bool { number = see(); return number != "" })
	if number == "1" {
		t.Fatal("the other container's process is the first")
	}
	if out := b.run(p, "sh", "-c", "cat /proc/1/comm; ls -A /proc/1/root"); out != "shoal-first\n" {
		t.Errorf("the first process shows %q", out)
	}

	b.stop()
	b.mu.Lock()
	delete(b.status, p.UID)
	b.mu.Unlock()
	b.start()
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.run(p, "kill", "-9", number)
	b.container(p, "other", "running again", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil })
	waitFor(t, "the other container's new process", func() bool { again := see(); return again != "" && again != number })

	data, err := os.ReadFile(filepath.Join(b.dir, "pods", string(p.UID), firstFile))
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(string(data))
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.container(p, "main", "running in a new namespace", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil })
	if out := b.run(p, "cat", "/proc/1/comm"); out != "shoal-first\n" {
		t.Errorf("the new first process is %q", out)
	}
	b.remove(p)
	if fd, err := b.runner.openFirst(string(p.UID)); err == nil {
		_ = unix.Close(fd)
		t.Error("the first process outlives its pod")
	}
}

// testHostIPC: the host's shared memory and IPC namespace.
func (b *bed) testHostIPC(t *testing.T) {
	b = b.with(t)
	p := pod("hostipc", sleeper, func(p *v1.Pod) { p.Spec.HostIPC, p.Spec.HostPID = true, true })
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	own, err := os.Readlink("/proc/thread-self/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	if out := b.run(p, "busybox", "readlink", "/proc/self/ns/ipc"); strings.TrimSpace(out) != own {
		t.Errorf("IPC namespace %q, the host's is %s", out, own)
	}
	file := filepath.Join("/dev/shm", "shoal-test-"+string(p.UID))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	b.run(p, "ls", file)
	b.remove(p)
	if _, err := os.Stat(file); err != nil {
		t.Errorf("after the pod: %v", err)
	}
}
