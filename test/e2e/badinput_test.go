package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/test/harness"
)

// TestStartRefused starts daemons that cannot run. Each must end by itself,
// say why and what to do, and leave nothing.
func TestStartRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		change func(*harness.Daemon)
		user   uint32
		says   []string
		// keeps says that the data directory may exist afterwards.
		keeps bool
	}{
		"no containerd": {
			change: func(d *harness.Daemon) { d.Containerd = "/nonexistent/containerd.sock" },
			says:   []string{"/nonexistent/containerd.sock"},
			keeps:  true,
		},
		"not root": {
			change: func(*harness.Daemon) {},
			user:   65534,
			says:   []string{"root"},
		},
		"port taken": {
			change: func(d *harness.Daemon) { d.APIAddr = taken.Addr().String() },
			says:   []string{taken.Addr().String(), "--api-addr"},
			keeps:  true,
		},
		"data directory locked": {
			change: func(d *harness.Daemon) { d.DataDir = daemon.DataDir },
			says:   []string{daemon.DataDir, fmt.Sprint(daemon.Pid())},
			keeps:  true,
		},
		"bad name": {
			change: func(d *harness.Daemon) { d.Name = "Not A Name" },
			says:   []string{"Not A Name", "--name"},
		},
		"bad address": {
			change: func(d *harness.Daemon) { d.APIAddr = "nonsense" },
			says:   []string{"nonsense"},
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			other := *daemon
			other.Name, other.DataDir, other.APIAddr, other.GossipPort = "other", filepath.Join(t.TempDir(), "data"), "127.0.0.1:16443", "17946"
			c.change(&other)
			ctx, cancel := context.WithTimeout(t.Context(), settleWithin)
			defer cancel()
			result := harness.Command{Argv: other.Argv(), User: c.user}.Run(ctx)
			if result.Err == nil || ctx.Err() != nil {
				t.Fatalf("it did not end by itself with an error: %v", result.Err)
			}
			mentions(t, result.Stderr, c.says...)
			if strings.Contains(result.Stderr, "goroutine ") {
				t.Errorf("it panicked: %s", result.Stderr)
			}
			if _, err := os.Stat(other.DataDir); err == nil && !c.keeps {
				t.Errorf("it made %s", other.DataDir)
			}
			mentions(t, kubectl(t, "get", "--raw", "/readyz"), "ok")
		})
	}
}

func TestBadObjects(t *testing.T) {
	ns := newNamespace(t)
	big := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: big}\ndata: {text: " + strings.Repeat("x", 4<<20) + "}\n"
	for name, c := range map[string]struct {
		manifest string
		says     []string
	}{
		"malformed":     {"apiVersion: v1\nkind: ConfigMap\nmetadata: [", []string{"error"}},
		"no kind":       {"apiVersion: v1\nmetadata: {name: a}\n", []string{"kind"}},
		"unknown kind":  {"apiVersion: v1\nkind: Nonsense\nmetadata: {name: a}\n", []string{"Nonsense"}},
		"unknown field": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatas: {a: b}\n", []string{"unknown field", "datas"}},
		"invalid value": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Valid}\n", []string{"Not_Valid", "Invalid value"}},
		"too large":     {big, []string{"large"}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			text := kubectlFails(t, c.manifest, "create", "--namespace", ns, "--validate=strict", "--filename", "-")
			mentions(t, text, c.says...)
		})
	}
	list, err := client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "!kube"})
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range list.Items {
		if object.Name != "kube-root-ca.crt" {
			t.Errorf("%s was stored", object.Name)
		}
	}
}

// TestWarnings stores what this version does not act on: the client is told.
func TestWarnings(t *testing.T) {
	ns := newNamespace(t)
	kubectl(t, "create", "deployment", "still", "--namespace", ns, "--image", busyboxImage, "--replicas", "0")
	result := runKubectl(t, "", "autoscale", "deployment", "still", "--namespace", ns, "--max", "3")
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	mentions(t, result.Stderr, "Warning:", "HorizontalPodAutoscaler")
	result = runKubectl(t, pod("warned", `
  nodeSelector: {nowhere: at-all}
  containers:
  - {name: main, image: `+busyboxImage+`, securityContext: {seLinuxOptions: {level: s0}}}
`), "apply", "--namespace", ns, "--filename", "-")
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	mentions(t, result.Stderr, "Warning:", "seLinuxOptions")
}

func TestBadCommands(t *testing.T) {
	ns := newNamespace(t)
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"image", "load", "/nonexistent.tar"}, []string{"/nonexistent.tar"}},
		{[]string{"image", "load", "/etc/hostname"}, []string{"archive"}},
		{[]string{"image", "pull", "127.0.0.1:9/no/such:image"}, []string{"127.0.0.1:9"}},
		{[]string{"get", "nonsense"}, []string{"nonsense"}},
		{[]string{"expose", "deployment", "missing", "--namespace", ns, "--port", "80"}, []string{"missing", "not found"}},
		{[]string{"service", "missing", "--namespace", ns, "--url"}, []string{"missing", "not found"}},
		{[]string{"frobnicate"}, []string{"frobnicate"}},
		{[]string{"run", "x", "--namespace", ns, "--nonsense"}, []string{"nonsense"}},
	} {
		t.Run(strings.Join(c.args[:min(2, len(c.args))], "_"), func(t *testing.T) {
			result := daemon.Command(c.args...).Run(t.Context())
			if result.Err == nil {
				t.Fatalf("it succeeded: %s", result.Stdout)
			}
			mentions(t, result.Stderr, c.says...)
		})
	}
}

// fullDiskBytes is the size of the small disk of TestFullDisk: enough to start,
// little enough to fill.
const fullDiskBytes = 512 << 20

// TestFullDisk runs a second daemon on a small disk in a network of its own and
// fills the disk: writes are refused, reads go on, and writes come back with
// the space.
func TestFullDisk(t *testing.T) {
	second, disk := startOnSmallDisk(t)
	run := func(input string, args ...string) harness.Result { return kubectlOf(t, second, input, args...) }
	note := func(name string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {text: " + strings.Repeat("y", 100<<10) + "}\n"
	}
	if result := run(note("before"), "create", "--filename", "-"); result.Err != nil {
		t.Fatal(result.Err)
	}
	filler := fillDisk(t, disk)
	eventually(t, "a write is refused for lack of space", func() error {
		result := run(note("during"), "create", "--filename", "-")
		if result.Err == nil {
			if result := run("", "delete", "configmap", "during"); result.Err != nil && !strings.Contains(result.Stderr, "space") {
				return result.Err
			}
			return errors.New("it was taken")
		}
		if !strings.Contains(strings.ToLower(result.Stderr), "space") && !strings.Contains(strings.ToLower(result.Stderr), "disk") {
			t.Fatalf("the refusal does not tell why: %s", result.Stderr)
		}
		return nil
	})
	if result := run("", "get", "configmap", "before", "--output", "name"); result.Err != nil {
		t.Errorf("a read with the disk full: %v", result.Err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, "writes work again", func() error { return run(note("after"), "create", "--filename", "-").Err })
	second.Kill()
	if err := second.Launch(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything is there after a restart", func() error {
		return run("", "get", "configmaps", "before", "after").Err
	})
}
