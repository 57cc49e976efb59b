package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/userns"
	"shoal/test/eventually"
)

func ownUsers(p *v1.Pod) { p.Spec.HostUsers = ptr(false) }

func isRunning(c v1.ContainerStatus) bool { return c.State.Running != nil }

// ownerOf is who a file on the host belongs to.
func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}

// hostUser is who the container's first process is on the host.
func (b *bed) hostUser(p *v1.Pod) uint32 {
	b.t.Helper()
	b.runner.mu.Lock()
	w := b.runner.workers[p.UID]
	b.runner.mu.Unlock()
	pid := make(chan int, 1)
	w.tell(func(w *worker) { pid <- w.slots[0].current.pid })
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", <-pid), &st); err != nil {
		b.t.Fatal(err)
	}
	return st.Uid
}

// TestUserNamespace: a pod with hostUsers: false is root only inside; its
// volumes and files have the owners it would see without.
func TestUserNamespace(t *testing.T) {
	b := newBed(t)
	b.objects.secrets["test/s"] = &v1.Secret{Data: map[string][]byte{"k": []byte("hush")}}
	b.objects.configMaps["test/c"] = &v1.ConfigMap{Data: map[string]string{"k": "said"}}
	host := t.TempDir()
	if err := os.Chmod(host, 0o755); err != nil {
		t.Fatal(err)
	}
	make1 := func(name string) *v1.Pod {
		return pod(name, "echo begun > /dev/stderr; "+sleeper, ownUsers, func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{
				{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
				{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
				{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr[int32](0o400)}}},
				{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "c"}}}},
				{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host}}},
				{Name: "img", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "box", PullPolicy: v1.PullIfNotPresent}}},
			}
			for _, v := range p.Spec.Volumes {
				p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, v1.VolumeMount{
					Name: v.Name, MountPath: "/v/" + v.Name, ReadOnly: v.Name == "sec" || v.Name == "conf"})
			}
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts,
				v1.VolumeMount{Name: "disk", MountPath: "/v/sub", SubPath: "below"})
			p.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
			p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "HUSH", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{
				LocalObjectReference: v1.LocalObjectReference{Name: "s"}, Key: "k"}}}}
		})
	}
	before := b.counts()
	p, other := make1("one"), make1("two")
	for _, q := range []*v1.Pod{p, other} {
		b.runner.Set(q)
		b.container(q, "main", "running", isRunning)
	}
	first := b.hostUser(p)
	if first == 0 || first%65536 != 0 || b.hostUser(other) == first {
		t.Errorf("roots are %d and %d on the host", first, b.hostUser(other))
	}
	if got := strings.Fields(b.run(p, "cat", "/proc/self/uid_map")); len(got) != 3 || got[0] != "0" || got[1] != fmt.Sprint(first) || got[2] != "65536" {
		t.Errorf("uid_map %q", got)
	}
	script := `set -e
id -u; hostname
for f in / /bin/busybox /v/disk /v/sub /v/mem /v/sec/k /v/conf/k /v/host /v/img/bin/busybox /etc/hosts /dev/termination-log; do stat -Lc '%n %u' $f; done
cat /v/sec/k /v/conf/k; echo; echo $HUSH
for f in /root-file /v/disk/f /v/sub/f /v/mem/f /v/host/f /etc/hosts /dev/termination-log; do echo x >> $f; done
chown 1000 /v/host/f
for f in /v/sec/f /v/conf/f /v/img/f; do if (echo x > $f) 2>/dev/null; then echo wrote $f; fi; done
cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net; echo out > /dev/stderr
`
	out := b.run(p, "/bin/sh", "-c", script)
	want := "0\none\n/ 0\n/bin/busybox 0\n/v/disk 0\n/v/sub 0\n/v/mem 0\n/v/sec/k 0\n/v/conf/k 0\n/v/host 0\n/v/img/bin/busybox 0\n/etc/hosts 0\n/dev/termination-log 0\nhushsaid\nhush\n0\neth0\nlo\n"
	// The two streams come in no order.
	if !strings.Contains(out, "out\n") || strings.Replace(out, "out\n", "", 1) != want {
		t.Errorf("inside: %q\nwant %q", out, want)
	}
	if got := ownerOf(t, filepath.Join(host, "f")); got != 1000 {
		t.Errorf("a file of user 1000 on the host belongs to %d", got)
	}
	if got := ownerOf(t, filepath.Join(b.dir, "pods", string(p.UID), "volumes/kubernetes.io~empty-dir/disk/f")); got != 0 {
		t.Errorf("a file in the emptyDir belongs to %d on the host", got)
	}

	b.stop()
	b.start()
	for _, q := range []*v1.Pod{p, other} {
		b.runner.Set(q)
	}
	b.container(p, "main", "running", isRunning)
	third := make1("three")
	b.runner.Set(third)
	b.container(third, "main", "running", isRunning)
	if got := b.hostUser(third); got == first || got == b.hostUser(other) {
		t.Errorf("after a restart a new pod has %d too", got)
	}
	b.run(p, "/bin/sh", "-c", "test -f /root-file && (sleep 0.2; kill 1) >/dev/null 2>&1 &")
	b.container(p, "main", "restarted", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil })
	if got := b.hostUser(p); got != first {
		t.Errorf("after a restart of the container its root is %d, was %d", got, first)
	}
	b.run(p, "/bin/sh", "-c", "test ! -e /root-file && test -f /v/disk/f && echo x >> /v/disk/f")
	eventually.True(t, "the restarted container to log", func() bool { return strings.HasSuffix(b.logs(p, "main", 1), "stderr F begun\n") })
	b.remove(p, other, third)
	b.settled(t, before)
}

// TestUserNamespaceWith runs what is special about a pod together with a user
// namespace.
func TestUserNamespaceWith(t *testing.T) {
	b := newBed(t)
	second := func(p *v1.Pod) {
		c := p.Spec.Containers[0].DeepCopy()
		c.Name = "second"
		p.Spec.Containers = append(p.Spec.Containers, *c)
	}
	secure := func(sc v1.SecurityContext) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.Containers[0].SecurityContext = &sc }
	}
	before := b.counts()
	for _, test := range []struct {
		name   string
		change func(*v1.Pod)
		script string
		want   string
	}{
		{"shared-processes", func(p *v1.Pod) { second(p); p.Spec.ShareProcessNamespace = ptr(true) },
			"cat /proc/1/comm; for i in $(seq 1000); do [ $(pidof sleep | wc -w) = 2 ] && break; done; pidof sleep | wc -w; ls /proc/1/root/ 2>/dev/null | wc -l", "shoal-first\n2\n0\n"},
		{"shm", second, "echo x > /dev/shm/f; stat -c '%u %a' /dev/shm; stat -c %u /dev/shm/f", "0 1777\n0\n"},
		{"caps", secure(v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{"NET_ADMIN", "SYS_ADMIN"}}}),
			"ip addr add 192.0.2.9/32 dev lo && mkdir /m && mount -t tmpfs none /m && echo yes; (echo 0 > /proc/sys/kernel/panic) 2>/dev/null || echo no", "yes\nno\n"},
		{"unmasked", secure(v1.SecurityContext{ProcMount: ptr(v1.UnmaskedProcMount)}),
			"grep -c ' /proc/' /proc/mounts || true", "0\n"},
		{"privileged", secure(v1.SecurityContext{Privileged: ptr(true)}),
			"mkdir /m; mount -t tmpfs none /m && echo yes; head -c1 /dev/kmsg >/dev/null 2>&1 || echo no", "yes\nno\n"},
		{"read-only", secure(v1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)}),
			"(echo x > /f) 2>/dev/null || echo no", "no\n"},
		{"seccomp", secure(v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}, RunAsUser: ptr[int64](1000)}),
			"id -u; grep Seccomp: /proc/1/status | tr -dc 0-9; echo; cat /proc/sys/net/ipv4/ping_group_range; echo x > /dev/stdout", "1000\n2\n0\t65535\nx\n"},
		{"sysctls", func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "net.ipv4.tcp_syncookies", Value: "0"}, {Name: "kernel.shm_rmid_forced", Value: "1"}}}
		}, "cat /proc/sys/net/ipv4/tcp_syncookies /proc/sys/kernel/shm_rmid_forced", "0\n1\n"},
		{"fsgroup", func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr[int64](2000), RunAsUser: ptr[int64](1000)}
			p.Spec.Volumes = []v1.Volume{{Name: "d", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "d", MountPath: "/d"}}
		}, "echo x > /d/f; stat -c '%u %g' /d/f", "1000 2000\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := b.with(t)
			p := pod(test.name, sleeper, ownUsers, test.change)
			b.runner.Set(p)
			b.container(p, "main", "running", isRunning)
			if len(p.Spec.Containers) > 1 {
				b.container(p, "second", "running", isRunning)
			}
			if got := b.run(p, "/bin/sh", "-c", test.script); !strings.HasPrefix(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
			b.remove(p)
		})
	}
	for name, stdin := range map[string]bool{"terminal": false, "input": true} {
		p := pod(name, "(tty || echo no) > /dev/stdout; "+sleeper, ownUsers, func(p *v1.Pod) {
			p.Spec.Containers[0].TTY, p.Spec.Containers[0].Stdin = !stdin, stdin
		})
		b.runner.Set(p)
		b.container(p, "main", "running", isRunning)
		want := map[bool]string{false: "/dev/pts/0", true: "not a tty"}[stdin]
		eventually.True(t, name+" writes "+want, func() bool { return strings.Contains(b.logs(p, "main", 0), want) })
		b.remove(p)
	}
	b.settled(t, before)
}

// settled waits until the host has what it had, but for what all pods share.
func (b *bed) settled(t *testing.T, before map[string]int) {
	t.Helper()
	eventually.True(t, "nothing of the pods is left", func() bool {
		now := b.counts()
		for _, what := range []string{"mounts", "veths", "containers", "snapshots", "dir ns", "dir pods", "dir net", "processes"} {
			if now[what] > before[what] {
				return false
			}
		}
		return true
	})
}

// TestUserNamespaceRefused: what cannot be mapped is said, and what a killed
// daemon left half-made goes.
func TestUserNamespaceRefused(t *testing.T) {
	b := newBed(t)
	p := pod("sysfs", sleeper, ownUsers, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "d", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/sys/kernel"}}}}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "d", MountPath: "/d"}}
	})
	b.runner.Set(p)
	c := b.container(p, "main", "refused", waitingFor(reasonCreateError))
	if !strings.Contains(c.State.Waiting.Message, "does not support idmapped mounts") {
		t.Errorf("message %q", c.State.Waiting.Message)
	}
	staged := filepath.Join(b.dir, "ns", string(p.UID), stageDir, "left")
	b.stop()
	for _, name := range []string{"0", "root"} {
		at := filepath.Join(staged, name)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := userns.Bind(filepath.Join(b.dir, "ns", string(p.UID), pinUser), t.TempDir(), at); err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	if _, err := os.Stat(staged); !os.IsNotExist(err) {
		t.Errorf("what was staged is there after a restart: %v", err)
	}
	b.runner.Set(p)
	b.remove(p)

	b.runner.usersAllowed = func() error { return errors.New("no such kernel") }
	p = pod("old-kernel", sleeper, ownUsers)
	b.runner.Set(p)
	if got := b.event(p, "FailedCreatePodSandBox"); !strings.Contains(got, "runtime does not support user namespaces: no such kernel") {
		t.Errorf("event %q", got)
	}
	b.remove(p)
}
