package runner

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// secretMark is in no file of its own accord, the test's binary included.
var secretMark = "sw0rdfish-" + newID()[:12]

// holding gives the files below dir, on the same file system, that contain
// text and were changed since. Nothing else on the host is looked at.
func holding(t *testing.T, dir, text string, since time.Time) []string {
	t.Helper()
	var top unix.Stat_t
	if err := unix.Stat(dir, &top); err != nil {
		t.Fatal(err)
	}
	var found []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went away meanwhile
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		if d.IsDir() && st.Dev != top.Dev {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || time.Unix(st.Mtim.Unix()).Before(since) || st.Size > 256<<20 {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(text)) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// commandLines gives those of all processes that contain text.
func commandLines(text string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && bytes.Contains(data, []byte(text)) {
			found = append(found, f+": "+string(data))
		}
	}
	return found
}

func withSecret(name string, data map[string]string) *v1.Secret {
	s := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "test", Name: name}, Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}

func fromSecret(name, key string) *v1.EnvVarSource {
	return &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: name}, Key: key}}
}

// TestSecretsInTheEnvironment: values of Secrets, and what is made of them,
// reach the container's processes and commands run in it, and no file on a
// disk nor any command line; a restart of daemon and container changes nothing.
func TestSecretsInTheEnvironment(t *testing.T) {
	began := time.Now().Add(-time.Second)
	b := newBed(t)
	awkward := secretMark + ` "quoted" \ $HOME` + "\nsecond line\t漢字"
	b.objects.secrets["test/login"] = withSecret("login", map[string]string{
		"password": awkward, "long": secretMark + strings.Repeat("x", 100<<10), "user": "u-" + secretMark,
	})
	p := pod("env", `printf %s "$PASSWORD" > /dev/shm/seen; `+sleeper, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.EnvFrom = []v1.EnvFromSource{{Prefix: "ALL_", SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "login"}}}}
		c.Env = []v1.EnvVar{
			{Name: "PLAIN", Value: "plain"},
			{Name: "PASSWORD", ValueFrom: fromSecret("login", "password")},
			{Name: "DERIVED", Value: "postgres://$(PASSWORD)@db"},
			{Name: "TWICE", Value: "[$(DERIVED)]"},
		}
	})
	check := func() {
		t.Helper()
		for name, want := range map[string]string{
			"PASSWORD": awkward, "ALL_user": "u-" + secretMark, "ALL_password": awkward, "PLAIN": "plain",
			"TWICE": "[postgres://" + awkward + "@db]",
		} {
			// By exec, and of the container's first process.
			if got := b.run(p, "/bin/sh", "-c", `printf %s "$`+name+`"`); got != want {
				t.Errorf("%s by exec is %.60q, want %.60q", name, got, want)
			}
		}
		waitFor(t, "the script to note its environment", func() bool { return b.run(p, "sh", "-c", "test -s /dev/shm/seen; echo $?") == "0\n" })
		if got := b.run(p, "cat", "/dev/shm/seen"); got != awkward {
			t.Errorf("the container saw %q", got)
		}
		if got := b.run(p, "/bin/sh", "-c", `printf %s "$ALL_long" | wc -c`); strings.TrimSpace(got) != strconv.Itoa(len(secretMark)+(100<<10)) {
			t.Errorf("a long value has %s bytes", got)
		}
	}
	clean := func(when string) {
		t.Helper()
		var where []string
		for _, dir := range []string{b.ctrd.Dir(), b.dir, os.TempDir(), "/run"} {
			where = append(where, holding(t, dir, secretMark, began)...)
		}
		where = append(where, commandLines(secretMark)...)
		if len(where) > 0 {
			t.Errorf("%s, the secret is in %q", when, where)
		}
	}
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	clean("while it runs")
	check()
	clean("after exec")

	b.stop()
	p.Status = b.last(p.UID)
	b.record.mu.Lock()
	clear(b.status)
	b.record.mu.Unlock()
	b.start()
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	check()
	ref, _ := b.runner.Container(p.UID, "main")
	if err := unix.Kill(b.pid(ref.ID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.container(p, "main", "restarted", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil })
	check()
	clean("after a restart")
	b.remove(p)
	if left, _ := os.ReadDir(filepath.Join(b.dir, "secrets", ".spec")); len(left) > 0 {
		t.Errorf("values are left of removed containers: %v", left)
	}
	if i := slices.IndexFunc(b.events, func(e string) bool { return strings.Contains(e, secretMark) }); i >= 0 {
		t.Errorf("an event tells the secret: %s", b.events[i])
	}
}

// TestSecretsInArguments: an argument made of a secret is in no file either.
func TestSecretsInArguments(t *testing.T) {
	began := time.Now().Add(-time.Second)
	b := newBed(t)
	b.objects.secrets["test/login"] = withSecret("login", map[string]string{"password": secretMark})
	p := pod("args", `printf %s "$0" > /dev/shm/seen; `+sleeper, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Env = []v1.EnvVar{{Name: "PASSWORD", ValueFrom: fromSecret("login", "password")}}
		c.Args = []string{"key=$(PASSWORD) $(NOBODY) $$(PASSWORD)"}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	want := "key=" + secretMark + " $(NOBODY) $(PASSWORD)"
	waitFor(t, "the script to note its argument", func() bool { return b.run(p, "sh", "-c", "test -s /dev/shm/seen; echo $?") == "0\n" })
	if got := b.run(p, "cat", "/dev/shm/seen"); got != want {
		t.Errorf("the argument is %q, want %q", got, want)
	}
	for _, dir := range []string{b.ctrd.Dir(), b.dir} {
		if where := holding(t, dir, secretMark, began); len(where) > 0 {
			t.Errorf("the secret is in %q", where)
		}
	}
	b.remove(p)
}

// TestSecretsNobodyCanRun: values that no environment can carry are named by
// their key, and errors of the runtime do not quote them.
func TestSecretsNobodyCanRun(t *testing.T) {
	b := newBed(t)
	b.objects.secrets["test/login"] = withSecret("login", map[string]string{
		"binary": secretMark + "\xff\xfe", "nul": secretMark + "\x00", "huge": secretMark + strings.Repeat("y", 1<<20), "ok": secretMark,
	})
	one := func(name, key string, change ...func(*v1.Pod)) *v1.Pod {
		p := pod(name, sleeper, change...)
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "V", ValueFrom: fromSecret("login", key)}}
		b.runner.Set(p)
		return p
	}
	pods := []*v1.Pod{
		one("binary", "binary"), one("nul", "nul"), one("missing", "missing"), one("huge", "huge"),
		one("quoted", "ok", func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"/$(V)"} }),
		one("nothing", "ok", func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"/no/such/command"} }),
	}
	for i, want := range []string{
		"key binary in Secret test/login: the value is not valid UTF-8", "key nul in Secret test/login: the value contains a NUL",
		"couldn't find key missing in Secret test/login", "environment variable V: 1048", `exec: "[secret]": stat [secret]: no such file`, "no such file or directory",
	} {
		c := b.container(pods[i], "main", "refused", func(c v1.ContainerStatus) bool {
			return c.State.Waiting != nil && strings.Contains(c.State.Waiting.Message, want) ||
				c.LastTerminationState.Terminated != nil && strings.Contains(c.LastTerminationState.Terminated.Message, want)
		})
		if strings.Contains(c.String(), secretMark) {
			t.Errorf("%s: the status tells the secret: %s", pods[i].Name, c.String())
		}
	}
	b.remove(pods...)
	for _, e := range b.events {
		if strings.Contains(e, secretMark) {
			t.Errorf("an event tells the secret: %.200s", e)
		}
	}
	if code, out, err := b.runner.execOutput(context.Background(), "nobody", []string{"true"}, time.Second); err == nil {
		t.Errorf("exec in no container: %d %q", code, out)
	}
}

// TestSecretsInPaths: no directory is named by a secret, nor by what is made of one.
func TestSecretsInPaths(t *testing.T) {
	b := newBed(t)
	b.objects.secrets["test/login"] = withSecret("login", map[string]string{"password": secretMark})
	host := t.TempDir()
	p := pod("path", sleeper, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{hostDir("v", host)}
		c := &p.Spec.Containers[0]
		c.Env = []v1.EnvVar{{Name: "PASSWORD", ValueFrom: fromSecret("login", "password")}, {Name: "DERIVED", Value: "of-$(PASSWORD)"}}
		c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v", SubPathExpr: "logs/$(DERIVED)"}}
	})
	b.runner.Set(p)
	c := b.container(p, "main", "refused", waitingFor(reasonConfigError))
	if m := c.State.Waiting.Message; !strings.Contains(m, "subPathExpr: the value of DERIVED is from a Secret") || strings.Contains(m, secretMark) {
		t.Errorf("the reason is %q", m)
	}
	b.remove(p)
	if made, err := os.ReadDir(host); err != nil || len(made) > 0 {
		t.Errorf("the volume has %v, %v", made, err)
	}
}
