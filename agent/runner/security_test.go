package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/oci"
)

// TestGroups: the groups of the image's user count unless the policy is
// Strict, and the status says who the container began as.
func TestGroups(t *testing.T) {
	b := newBed(t)
	withUser := func(sc v1.PodSecurityContext) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.SecurityContext = &sc }
	}
	for _, test := range []struct {
		name string
		sc   v1.PodSecurityContext
		id   string // what `id` prints of numbers
		user v1.LinuxContainerUser
	}{
		{"merge", v1.PodSecurityContext{RunAsUser: ptr[int64](1234), SupplementalGroups: []int64{55, 77}, FSGroup: ptr[int64](66)},
			"1234 1234 1234 55 66 77", v1.LinuxContainerUser{UID: 1234, GID: 1234, SupplementalGroups: []int64{1234, 77, 66, 55}}},
		{"strict", v1.PodSecurityContext{RunAsUser: ptr[int64](1234), SupplementalGroups: []int64{55}, SupplementalGroupsPolicy: ptr(v1.SupplementalGroupsPolicyStrict)},
			"1234 1234 1234 55", v1.LinuxContainerUser{UID: 1234, GID: 1234, SupplementalGroups: []int64{1234, 55}}},
		{"group", v1.PodSecurityContext{RunAsUser: ptr[int64](1234), RunAsGroup: ptr[int64](9)},
			"1234 9 9 77", v1.LinuxContainerUser{UID: 1234, GID: 9, SupplementalGroups: []int64{9, 77}}},
		{"stranger", v1.PodSecurityContext{RunAsUser: ptr[int64](4711)},
			"4711 0 0", v1.LinuxContainerUser{UID: 4711, GID: 0, SupplementalGroups: []int64{0}}},
		{"root", v1.PodSecurityContext{}, "0 0 0", v1.LinuxContainerUser{SupplementalGroups: []int64{0}}},
	} {
		// Twice: the second is from memory, and none changes another's.
		for i := range 2 {
			p := pod(fmt.Sprintf("%s%d", test.name, i), sleeper, withUser(test.sc))
			b.runner.Set(p)
			c := b.container(p, "main", "running", func(c v1.ContainerStatus) bool { return c.State.Running != nil })
			if c.User == nil || c.User.Linux == nil || c.User.Linux.UID != test.user.UID || c.User.Linux.GID != test.user.GID ||
				!slices.Equal(c.User.Linux.SupplementalGroups, test.user.SupplementalGroups) {
				t.Errorf("%s: status user %+v, want %+v", p.Name, c.User, test.user)
			}
			if got := strings.TrimSpace(b.run(p, "/bin/sh", "-c", "echo $(id -u) $(id -g) $(id -G)")); got != test.id {
				t.Errorf("%s: id is %q, want %q", p.Name, got, test.id)
			}
			b.remove(p)
		}
	}
}

// TestSecuritySettings reads in the container what the kernel holds it to.
func TestSecuritySettings(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	b.stop()
	b.security = oci.Security{SeccompDir: dir}
	b.start()
	profile := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(filepath.Join(dir, "nomkdir.json"), []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	// A container runs a moment before its own program does: until then the first
	// process is the runtime's, with what that needs.
	status := func(p *v1.Pod, field string) string {
		t.Helper()
		fields := map[string]string{}
		waitFor(t, "the container's program to run", func() bool {
			for line := range strings.Lines(b.run(p, "cat", "/proc/1/status")) {
				name, value, _ := strings.Cut(line, ":")
				fields[name] = strings.TrimSpace(value)
			}
			return !strings.HasPrefix(fields["Name"], "runc")
		})
		return fields[field]
	}
	with := func(name string, sc v1.SecurityContext, pod_ v1.PodSecurityContext) *v1.Pod {
		p := pod(name, sleeper, func(p *v1.Pod) {
			p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = &pod_, &sc
		})
		b.runner.Set(p)
		return p
	}
	tight := with("tight", v1.SecurityContext{
		RunAsUser: ptr[int64](1234), AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
		Capabilities:   &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}},
		SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault},
	}, v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "20000 20100"}}})
	local := with("local", v1.SecurityContext{
		SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("nomkdir.json")},
	}, v1.PodSecurityContext{})
	gone := with("gone", v1.SecurityContext{
		SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("gone.json")},
	}, v1.PodSecurityContext{})
	root := with("root", v1.SecurityContext{RunAsNonRoot: ptr(true)}, v1.PodSecurityContext{})
	noUser := with("nouser", v1.SecurityContext{}, v1.PodSecurityContext{})

	b.phase(tight, v1.PodRunning)
	for field, want := range map[string]string{
		"CapBnd": "0000000000000400", "CapEff": "0000000000000000", "CapAmb": "0000000000000000", "CapInh": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2",
	} {
		if got := status(tight, field); got != want {
			t.Errorf("tight: %s is %s, want %s", field, got, want)
		}
	}
	for script, want := range map[string]string{
		"touch /x 2>/dev/null || echo ro":            "ro",
		"cat /proc/sys/net/ipv4/ip_local_port_range": "20000\t20100",
		// Without a capability: the pod's network lets anyone serve low ports.
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
	} {
		if got := strings.TrimSpace(b.run(tight, "/bin/sh", "-c", script)); got != want {
			t.Errorf("tight: %q gives %q, want %q", script, got, want)
		}
	}
	b.phase(local, v1.PodRunning)
	if got := b.run(local, "/bin/busybox", "sh", "-c", "busybox mkdir /x 2>/dev/null || echo refused"); strings.TrimSpace(got) != "refused" {
		t.Errorf("a profile of this host: mkdir gives %q", got)
	}
	b.phase(noUser, v1.PodRunning)
	if got := status(noUser, "Seccomp"); got != "0" {
		t.Errorf("without a profile: Seccomp is %s", got)
	}
	c := b.container(gone, "main", "refused", waitingFor(reasonCreateError))
	if !strings.Contains(c.State.Waiting.Message, `cannot load seccomp profile "`+dir+`/gone.json"`) {
		t.Errorf("a profile that is not there: %s", c.State.Waiting.Message)
	}
	c = b.container(root, "main", "refused", waitingFor(reasonConfigError))
	want := fmt.Sprintf("container has runAsNonRoot and image will run as root (pod: \"root_test(%s)\", container: main)", root.UID)
	if c.State.Waiting.Message != want {
		t.Errorf("an image of root: %s", c.State.Waiting.Message)
	}
	b.remove(tight, local, gone, root, noUser)
}

// securedPod is held to its security context.
func securedPod(b *bed) {
	p := pod("secure", `touch /x || echo read-only; grep -E "CapEff|NoNewPrivs|Seccomp:" /proc/self/status; echo args; `+sleeper, func(p *v1.Pod) {
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{
			ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false),
			Capabilities:   &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}},
			SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.remove1(p, func(out string) {
		for _, want := range []string{"read-only", "CapEff:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(out, want) {
				b.t.Errorf("output lacks %q:\n%s", want, out)
			}
		}
	})
}
