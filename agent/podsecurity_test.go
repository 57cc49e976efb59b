package agent

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/libcontainer/apparmor"
)

func TestSysctlsAreAllowedByName(t *testing.T) {
	s, err := newPodSecurity([]string{"net.core.somaxconn", "kernel.msg*"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name             string
		hostNet, hostIPC bool
		message          string // "" is allowed
	}{
		{name: "net.ipv4.ip_local_port_range"},
		{name: "net/ipv4/tcp_syncookies"},
		{name: "net.core.somaxconn"},
		{name: "kernel.msgmax"},
		{name: "net.ipv4.tcp_mem", message: `forbidden sysctl: "net.ipv4.tcp_mem" not allowlisted`},
		{name: "kernel.shm_rmid_forced", hostIPC: true, message: `forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled`},
		{name: "net.ipv4.tcp_syncookies", hostNet: true, message: `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled`},
		{name: "vm.swappiness", message: `forbidden sysctl: "vm.swappiness" not allowlisted`},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{
			HostNetwork: test.hostNet, HostIPC: test.hostIPC,
			SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: test.name, Value: "1"}}},
		}}
		reason, message := s.refuse(pod)
		if message != test.message || (reason != "") != (message != "") || reason != "" && reason != "SysctlForbidden" {
			t.Errorf("%s: %q %q, want %q", test.name, reason, message, test.message)
		}
	}
	for _, bad := range []string{"vm.swappiness", "net..core", "*"} {
		if _, err := newPodSecurity([]string{bad}); err == nil {
			t.Errorf("%q is allowed", bad)
		}
	}
}

func TestAppArmorIsDemandedOnlyWhereItIs(t *testing.T) {
	s, err := newPodSecurity(nil)
	if err != nil {
		t.Fatal(err)
	}
	with := func(kind v1.AppArmorProfileType) *v1.Pod {
		return &v1.Pod{
			Spec:   v1.PodSpec{SecurityContext: &v1.PodSecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: kind}}},
			Status: v1.PodStatus{Phase: v1.PodPending},
		}
	}
	if reason, message := s.refuse(with(v1.AppArmorProfileTypeUnconfined)); reason != "" {
		t.Errorf("unconfined: %s %s", reason, message)
	}
	old := &v1.Pod{Status: v1.PodStatus{Phase: v1.PodPending}}
	old.Annotations = map[string]string{v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "main": "runtime/default"}
	for name, pod := range map[string]*v1.Pod{"the field": with(v1.AppArmorProfileTypeRuntimeDefault), "the annotation": old} {
		reason, message := s.refuse(pod)
		if apparmor.IsEnabled() {
			if reason != "" {
				t.Errorf("%s: %s %s", name, reason, message)
			}
			continue
		}
		if reason != "AppArmor" || !strings.HasPrefix(message, "Cannot enforce AppArmor: ") {
			t.Errorf("%s: %q %q", name, reason, message)
		}
	}
}
