package oci

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

// build makes the specification of a pod of one container.
func build(t *testing.T, in Input, pod *v1.PodSecurityContext, c *v1.SecurityContext) (*specs.Spec, error) {
	t.Helper()
	in.Record = &containers.Container{ID: "c1"}
	in.Pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}, Spec: v1.PodSpec{SecurityContext: pod}}
	in.Container = &v1.Container{Name: "main", Image: "i", Command: []string{"/bin/sh"}, SecurityContext: c}
	in.Namespaces.Net = "/net"
	return Build(namespaces.WithNamespace(context.Background(), "test"), nil, in)
}

func must(t *testing.T, pod *v1.PodSecurityContext, c *v1.SecurityContext) *specs.Spec {
	t.Helper()
	s, err := build(t, Input{}, pod, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCapabilities(t *testing.T) {
	usual := must(t, nil, nil).Process.Capabilities.Bounding
	for _, test := range []struct {
		name       string
		add, drop  []v1.Capability
		has, lacks []string
		count      int // -1 is any
	}{
		{"nothing said", nil, nil, []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE"}, []string{"CAP_SYS_ADMIN"}, len(usual)},
		{"one more", []v1.Capability{"SYS_TIME"}, nil, []string{"CAP_SYS_TIME", "CAP_CHOWN"}, nil, len(usual) + 1},
		{"one that is there", []v1.Capability{"CHOWN"}, nil, []string{"CAP_CHOWN"}, nil, len(usual)},
		{"one less", nil, []v1.Capability{"CHOWN"}, nil, []string{"CAP_CHOWN"}, len(usual) - 1},
		{"none", nil, []v1.Capability{"ALL"}, nil, usual, 0},
		{"none but one", []v1.Capability{"NET_BIND_SERVICE"}, []v1.Capability{"all"}, []string{"CAP_NET_BIND_SERVICE"}, nil, 1},
		{"all but one", []v1.Capability{"ALL"}, []v1.Capability{"SYS_ADMIN"}, []string{"CAP_SYS_TIME"}, []string{"CAP_SYS_ADMIN"}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := must(t, nil, &v1.SecurityContext{Capabilities: &v1.Capabilities{Add: test.add, Drop: test.drop}}).Process.Capabilities
			if !reflect.DeepEqual(c.Bounding, c.Effective) || !reflect.DeepEqual(c.Bounding, c.Permitted) || c.Ambient != nil || c.Inheritable != nil {
				t.Errorf("sets differ: %+v", c)
			}
			if test.count >= 0 && len(c.Bounding) != test.count {
				t.Errorf("%d capabilities, want %d: %v", len(c.Bounding), test.count, c.Bounding)
			}
			for _, name := range test.has {
				if !slices.Contains(c.Bounding, name) {
					t.Errorf("%s is missing", name)
				}
			}
			for _, name := range test.lacks {
				if slices.Contains(c.Bounding, name) {
					t.Errorf("%s is there", name)
				}
			}
		})
	}
}

func TestPaths(t *testing.T) {
	s := must(t, nil, nil)
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/timer_list"} {
		if !slices.Contains(s.Linux.MaskedPaths, path) {
			t.Errorf("%s is not masked", path)
		}
	}
	if !slices.Contains(s.Linux.ReadonlyPaths, "/proc/sys") {
		t.Errorf("read-only: %v", s.Linux.ReadonlyPaths)
	}
	s = must(t, nil, &v1.SecurityContext{ProcMount: ptr(v1.UnmaskedProcMount)})
	if len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) != 0 {
		t.Errorf("unmasked: %v %v", s.Linux.MaskedPaths, s.Linux.ReadonlyPaths)
	}
	s = must(t, nil, &v1.SecurityContext{Privileged: ptr(true)})
	if len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) != 0 || s.Process.NoNewPrivileges {
		t.Errorf("privileged: %v %v", s.Linux.MaskedPaths, s.Linux.ReadonlyPaths)
	}
	s = must(t, nil, &v1.SecurityContext{AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true)})
	if !s.Process.NoNewPrivileges || !s.Root.Readonly {
		t.Error("no new privileges or read-only root are missing")
	}
}

func TestSeccomp(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "errno.json"), []byte(`{"defaultAction":"SCMP_ACT_ERRNO"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "broken.json"), []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	local := func(name string) *v1.SeccompProfile {
		return &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}
	}
	kind := func(k v1.SeccompProfileType) *v1.SeccompProfile { return &v1.SeccompProfile{Type: k} }
	for _, test := range []struct {
		name     string
		pod, c   *v1.SeccompProfile
		fallback bool
		want     specs.LinuxSeccompAction // "" is no profile
		problem  string
		create   bool
	}{
		{name: "nothing said"},
		{name: "nothing said, with a default", fallback: true, want: specs.ActErrno},
		{name: "unconfined against the default", c: kind(v1.SeccompProfileTypeUnconfined), fallback: true},
		{name: "the container beats its pod", pod: kind(v1.SeccompProfileTypeRuntimeDefault), c: kind(v1.SeccompProfileTypeUnconfined)},
		{name: "the pod's", pod: kind(v1.SeccompProfileTypeRuntimeDefault), want: specs.ActErrno},
		{name: "a file", c: local("errno.json"), want: specs.ActErrno},
		{name: "a file that is not there", c: local("gone.json"), problem: "cannot load seccomp profile", create: true},
		{name: "a broken file", c: local("broken.json"), problem: "seccomp profile"},
		{name: "a way out", c: local("../../etc/passwd"), problem: "leads out"},
		{name: "no name", c: kind(v1.SeccompProfileTypeLocalhost), problem: "localhostProfile must be set if seccompProfile type is Localhost."},
		{name: "another kind", c: kind("Other"), problem: `unknown seccomp profile type: "Other"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := Input{Security: Security{SeccompDir: dir, SeccompDefault: test.fallback}}
			s, err := build(t, in, &v1.PodSecurityContext{SeccompProfile: test.pod}, &v1.SecurityContext{SeccompProfile: test.c})
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) || errors.Is(err, ErrCreate) != test.create {
					t.Errorf("error %v, want %q", err, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := specs.LinuxSeccompAction("")
			if s.Linux.Seccomp != nil {
				got = s.Linux.Seccomp.DefaultAction
			}
			if got != test.want {
				t.Errorf("default action %q, want %q", got, test.want)
			}
		})
	}
	s, err := build(t, Input{Security: Security{SeccompDir: dir, SeccompDefault: true}}, nil, &v1.SecurityContext{Privileged: ptr(true)})
	if err != nil || s.Linux.Seccomp != nil {
		t.Errorf("privileged: %v, %v", s, err)
	}
}

func TestAppArmor(t *testing.T) {
	profile := func(k v1.AppArmorProfileType, name string) *v1.SecurityContext {
		p := &v1.AppArmorProfile{Type: k}
		if name != "" {
			p.LocalhostProfile = &name
		}
		return &v1.SecurityContext{AppArmorProfile: p}
	}
	for name, sc := range map[string]*v1.SecurityContext{"nothing said": nil, "unconfined": profile(v1.AppArmorProfileTypeUnconfined, "")} {
		if s, err := build(t, Input{}, nil, sc); err != nil || s.Process.ApparmorProfile != "" {
			t.Errorf("%s, without AppArmor: %v", name, err)
		}
	}
	if s, err := build(t, Input{Security: Security{AppArmor: true}}, nil, profile(v1.AppArmorProfileTypeUnconfined, "")); err != nil || s.Process.ApparmorProfile != "" {
		t.Errorf("unconfined: %v", err)
	}
	if _, err := build(t, Input{}, nil, profile(v1.AppArmorProfileTypeRuntimeDefault, "")); !errors.Is(err, ErrCreate) || !strings.Contains(err.Error(), "apparmor is not supported") {
		t.Errorf("without AppArmor: %v", err)
	}
	list := filepath.Join(t.TempDir(), "profiles")
	if err := os.WriteFile(list, []byte("docker-default (enforce)\nmine (complain)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := armorLoaded(list, "mine"); err != nil {
		t.Errorf("a loaded profile: %v", err)
	}
	if err := armorLoaded(list, "min"); err == nil || !strings.Contains(err.Error(), "apparmor profile not found min") {
		t.Errorf("a profile that is not loaded: %v", err)
	}
}

func TestSysctls(t *testing.T) {
	s := must(t, &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel/shm_rmid_forced", Value: "1"}, {Name: pingGroups, Value: "5 6"}}}, nil)
	want := map[string]string{"kernel.shm_rmid_forced": "1", unprivilegedPorts: everyPort, pingGroups: "5 6"}
	if !reflect.DeepEqual(s.Linux.Sysctl, want) {
		t.Errorf("%v, want %v", s.Linux.Sysctl, want)
	}
}

func TestRequestUser(t *testing.T) {
	strict := v1.SupplementalGroupsPolicyStrict
	for _, test := range []struct {
		name  string
		pod   *v1.PodSecurityContext
		c     *v1.SecurityContext
		image string
		want  UserRequest
	}{
		{"nothing said", nil, nil, "", UserRequest{"0", true}},
		{"the image's", nil, nil, "web:extra", UserRequest{"web:extra", true}},
		{"a number for the image's", &v1.PodSecurityContext{RunAsUser: ptr[int64](7)}, nil, "web:extra", UserRequest{"7", true}},
		{"the container beats its pod", &v1.PodSecurityContext{RunAsUser: ptr[int64](7), RunAsGroup: ptr[int64](8)}, &v1.SecurityContext{RunAsUser: ptr[int64](0)}, "web", UserRequest{"0:8", true}},
		{"a group alone", nil, &v1.SecurityContext{RunAsGroup: ptr[int64](8)}, "web:extra", UserRequest{"web:8", true}},
		{"strict", &v1.PodSecurityContext{SupplementalGroupsPolicy: &strict}, nil, "", UserRequest{"0", false}},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: test.pod}}
		if got := RequestUser(pod, &v1.Container{SecurityContext: test.c}, test.image); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestNonRoot(t *testing.T) {
	for _, test := range []struct {
		name  string
		user  *int64
		image string
		want  string
	}{
		{"a user", ptr[int64](5), "", ""},
		{"root asked for", ptr[int64](0), "web", "container's runAsUser breaks non-root policy"},
		{"an image of root", nil, "", "image will run as root"},
		{"an image of 0", nil, "0:5", "image will run as root"},
		{"an image of a number", nil, "5:0", ""},
		{"an image of a name", nil, "web", "image has non-numeric user (web), cannot verify user is non-root"},
		{"an image of a number too large", nil, "4294967296", "invalid user id"},
	} {
		c := &v1.Container{Name: "main", SecurityContext: &v1.SecurityContext{RunAsNonRoot: ptr(true), RunAsUser: test.user}}
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}}
		err := CheckNonRoot(pod, c, test.image)
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), `(pod: "p_n(u)", container: main)`)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		c.SecurityContext.RunAsNonRoot = nil
		if err := CheckNonRoot(pod, c, test.image); err != nil {
			t.Errorf("%s without runAsNonRoot: %v", test.name, err)
		}
	}
}
