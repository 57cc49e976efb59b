package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

const securityPod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  %s
  containers:
  - name: main
    image: ` + busyboxImage + `
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1; done"]
    %s
`

const restricted = `securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}`

const restrictedContainer = `securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}`

// TestPodSecurityStandards: namespace labels hold pods to the standards, with
// the words of kubectl's users.
func TestPodSecurityStandards(t *testing.T) {
	ns := newNamespace(t)
	create := []string{"create", "--namespace", ns, "--filename", "-"}
	label := func(labels ...string) {
		kubectl(t, append([]string{"label", "--overwrite", "namespace", ns}, labels...)...)
	}
	privileged := fmt.Sprintf(securityPod, "privileged", "", "securityContext: {privileged: true}")
	plain := fmt.Sprintf(securityPod, "plain", "", "")
	tight := fmt.Sprintf(securityPod, "tight", restricted, restrictedContainer)

	label("pod-security.kubernetes.io/enforce=baseline", "pod-security.kubernetes.io/warn=restricted", "pod-security.kubernetes.io/audit=restricted")
	mentions(t, kubectlFails(t, privileged, create...), `pods "privileged" is forbidden: violates PodSecurity "baseline:latest": privileged (container "main" must not set securityContext.privileged=true)`)
	result := runKubectl(t, plain, create...)
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	mentions(t, result.Stderr, `Warning: would violate PodSecurity "restricted:latest"`, "runAsNonRoot != true")

	label("pod-security.kubernetes.io/enforce=restricted")
	mentions(t, kubectlFails(t, strings.ReplaceAll(plain, "name: plain", "name: again"), create...), `violates PodSecurity "restricted:latest"`, "seccompProfile")
	if result := runKubectl(t, tight, create...); result.Err != nil || strings.Contains(result.Stderr, "Warning") {
		t.Errorf("a pod as it should be: %v, %s", result.Err, result.Stderr)
	}
	podWhen(t, ns, "tight", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	mentions(t, kubectl(t, "exec", "--namespace", ns, "tight", "--", "id"), "uid=1000")
}

// TestSecretsStayInMemory: a Secret's value in a pod's environment is in no
// file of shoal's or containerd's, and in nothing kubectl shows of the pod.
func TestSecretsStayInMemory(t *testing.T) {
	ns := newNamespace(t)
	value := fmt.Sprintf("pearl-%d-diver", os.Getpid())
	kubectl(t, "create", "--namespace", ns, "secret", "generic", "login", "--from-literal", "password="+value)
	apply(t, ns, fmt.Sprintf(securityPod, "keeper", "", "env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}]"))
	podWhen(t, ns, "keeper", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	if got := kubectl(t, "exec", "--namespace", ns, "keeper", "--", "sh", "-c", "echo $PASSWORD"); strings.TrimSpace(got) != value {
		t.Errorf("the pod has %q", got)
	}
	shown := kubectl(t, "describe", "--namespace", ns, "pod", "keeper") + kubectl(t, "get", "--namespace", ns, "pods", "--output", "yaml") +
		kubectl(t, "get", "--namespace", ns, "events", "--output", "yaml")
	if strings.Contains(shown, value) {
		t.Error("kubectl shows the secret in what it says of the pod")
	}
	if files := filesWith(t, world.Dir, value); len(files) > 0 {
		t.Errorf("the secret is in %q", files)
	}
}

// filesWith gives the files below dir, on its file system, that contain text.
func filesWith(t *testing.T, dir, text string) []string {
	t.Helper()
	var top unix.Stat_t
	if err := unix.Stat(dir, &top); err != nil {
		t.Fatal(err)
	}
	var found []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil // it went away meanwhile
		}
		if d.IsDir() && st.Dev != top.Dev {
			return fs.SkipDir
		}
		const fileMax = 64 << 20 // the store's files are sparse and encrypted
		if !d.Type().IsRegular() || st.Size > fileMax {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), text) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// TestWhatAHostRefuses: reasons and messages are the kubelet's.
func TestWhatAHostRefuses(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, fmt.Sprintf(securityPod, "tuned", "securityContext: {sysctls: [{name: net.core.somaxconn, value: \"2000\"}]}", ""))
	pod := podWhen(t, ns, "tuned", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if pod.Status.Reason != "SysctlForbidden" || pod.Status.Message != `Pod was rejected: forbidden sysctl: "net.core.somaxconn" not allowlisted` {
		t.Errorf("an unsafe sysctl: %s, %s", pod.Status.Reason, pod.Status.Message)
	}
	kubectlInput(t, "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: elsewhere}\nhandler: nowhere\noverhead: {podFixed: {cpu: 10m}}\n", "apply", "--filename", "-")
	t.Cleanup(func() { afterTest("delete", "runtimeclass", "elsewhere") })
	eventually(t, "the class", func() error {
		result := runKubectl(t, fmt.Sprintf(securityPod, "classy", "runtimeClassName: elsewhere", ""), "apply", "--namespace", ns, "--filename", "-")
		return result.Err
	})
	eventually(t, "the reason", func() error {
		if text := kubectl(t, "describe", "--namespace", ns, "pod", "classy"); !strings.Contains(text, `no runtime for "nowhere" is configured`) {
			return fmt.Errorf("describe says\n%s", text)
		}
		return nil
	})
	mentions(t, kubectl(t, "get", "--namespace", ns, "pod", "classy", "--output", "jsonpath={.spec.overhead}"), `"cpu":"10m"`)
	mentions(t, kubectl(t, "get", "nodes", "--output", "jsonpath={.items[0].status.runtimeHandlers}{.items[0].status.features}"), `"name":"runc"`, `"supplementalGroupsPolicy":true`)
}
