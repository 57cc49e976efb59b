package runner

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// otherRuntime is a copy of runc that notes how it is called.
func otherRuntime(t *testing.T) (binary, calls string) {
	t.Helper()
	dir := t.TempDir()
	path, err := exec.LookPath("runc")
	if err != nil {
		t.Skipf("needs runc: %v", err)
	}
	from, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "copy"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	to.Close()
	binary, calls = filepath.Join(dir, "other"), filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho \"$@\" >> " + calls + "\nexec " + to.Name() + " \"$@\"\n"
	if err := os.WriteFile(binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return binary, calls
}

// TestRuntimeClass runs pods with another OCI runtime, with and without
// secrets in the environment, and says what is wrong with a class.
func TestRuntimeClass(t *testing.T) {
	b := newBed(t)
	binary, calls := otherRuntime(t)
	b.stop()
	b.runtimes = []string{"other=" + binary}
	b.start()
	b.objects.handlers = map[string]string{"mine": "other", "default": "runc", "stranger": "nowhere"}
	b.objects.secrets["test/login"] = withSecret("login", map[string]string{"password": secretMark})
	class := func(name string) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Spec.RuntimeClassName = &name }
	}
	called := func() string { data, _ := os.ReadFile(calls); return string(data) }

	plain := pod("plain", sleeper, class("default"))
	b.runner.Set(plain)
	b.phase(plain, v1.PodRunning)
	if strings.Contains(called(), "create") {
		t.Errorf("a pod of runc's handler ran with the other runtime: %s", called())
	}
	secret := pod("secret", sleeper, class("mine"), func(p *v1.Pod) {
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "PASSWORD", ValueFrom: fromSecret("login", "password")}}
	})
	other := pod("other", sleeper, class("mine"))
	for _, p := range []*v1.Pod{other, secret} {
		b.runner.Set(p)
		b.phase(p, v1.PodRunning)
		ref, _ := b.runner.Container(p.UID, "main")
		if !strings.Contains(called(), "--bundle") || !strings.Contains(called(), ref.ID) {
			t.Errorf("%s was not run by the other runtime: %s", p.Name, called())
		}
	}
	if got := b.run(secret, "/bin/sh", "-c", `printf %s "$PASSWORD"`); got != secretMark {
		t.Errorf("the secret is %q", got)
	}
	if strings.Contains(called(), secretMark) {
		t.Error("the secret is in the runtime's arguments")
	}

	stranger, missing := pod("stranger", sleeper, class("stranger")), pod("missing", sleeper, class("missing"))
	b.runner.Set(stranger)
	b.runner.Set(missing)
	if e := b.event(stranger, "FailedCreatePodSandBox"); !strings.Contains(e, `no runtime for "nowhere" is configured`) {
		t.Errorf("a handler this host lacks: %s", e)
	}
	if e := b.event(missing, "FailedCreatePodSandBox"); !strings.Contains(e, `"missing" not found`) {
		t.Errorf("a class that is not there: %s", e)
	}
	// What runs is not disturbed by the end of its class, nor by a restart.
	delete(b.objects.handlers, "mine")
	b.stop()
	other.Status, secret.Status = b.last(other.UID), b.last(secret.UID)
	b.record.mu.Lock()
	clear(b.status)
	b.record.mu.Unlock()
	b.start()
	for _, p := range []*v1.Pod{other, secret} {
		b.runner.Set(p)
		if s := b.container(p, "main", "ready", func(c v1.ContainerStatus) bool { return c.Ready }); s.RestartCount != 0 {
			t.Errorf("%s was restarted", p.Name)
		}
	}
	for _, p := range []*v1.Pod{plain, stranger, missing} {
		b.runner.Set(p)
	}
	b.remove(plain, other, secret, stranger, missing)
}
