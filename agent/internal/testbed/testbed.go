// Package testbed starts what the agent's tests run against: a containerd of
// their own, images made from the host's static busybox, and a network of
// real namespaces and veth pairs.
//
// Everything is gone when the test ends. Only tests import it.
package testbed

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

// Namespace is the containerd namespace of the tests.
const Namespace = "shoal-test"

// readyTimeout bounds containerd's start; it usually takes a fifth of a
// second.
const readyTimeout = 3 * time.Minute

// Containerd is a containerd of the test's own.
type Containerd struct {
	Socket string
	Client *containerd.Client
	dir    string
	cmd    *exec.Cmd
	log    *os.File
}

// StartContainerd starts one, and stops it when the test ends.
func StartContainerd(t testing.TB) *Containerd {
	t.Helper()
	return StartContainerdOn(t, "")
}

// StartContainerdOn starts one whose images are on a disk of that size, such as
// 64M; empty is the machine's own disk.
func StartContainerdOn(t testing.TB, size string) *Containerd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containers, namespaces and mounts")
	}
	for _, tool := range []string{"containerd", "runc", "containerd-shim-runc-v2"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: %v", tool, err)
		}
	}
	// Not t.TempDir: socket paths are limited to 107 bytes.
	dir, err := os.MkdirTemp("", "shoal-ctrd-")
	if err != nil {
		t.Fatal(err)
	}
	// As /run/containerd: users of a pod's own go through to their root.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	c := &Containerd{Socket: filepath.Join(dir, "c.sock"), dir: dir}
	if size != "" {
		root := filepath.Join(dir, "root")
		if err := os.Mkdir(root, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
	c.Start(t)
	t.Cleanup(func() { c.stop(t) })
	c.Client, err = containerd.New(c.Socket, containerd.WithDefaultNamespace(Namespace))
	if err != nil {
		t.Fatal(err)
	}
	c.waitReady(t)
	return c
}

const config = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
`

// Start starts containerd, also again after Kill.
func (c *Containerd) Start(t testing.TB) {
	t.Helper()
	file := filepath.Join(c.dir, "config.toml")
	text := fmt.Sprintf(config, filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), c.Socket)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c.log = log
	c.cmd = exec.Command("containerd", "--config", file)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		t.Fatalf("start containerd: %v", err)
	}
}

// Dir is where all of containerd's state is, on a disk or not.
func (c *Containerd) Dir() string { return c.dir }

// Kill ends containerd as a crash would.
func (c *Containerd) Kill(t testing.TB) {
	t.Helper()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	_ = c.log.Close()
}

func (c *Containerd) waitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	for {
		if ok, err := c.Client.IsServing(ctx); ok && err == nil {
			return
		}
		if ctx.Err() != nil {
			data, _ := os.ReadFile(filepath.Join(c.dir, "log"))
			t.Fatalf("containerd did not become ready: %s", data)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *Containerd) stop(t testing.TB) {
	if t.Failed() {
		data, _ := os.ReadFile(filepath.Join(c.dir, "log"))
		t.Logf("containerd's log ends with:\n%s", data[max(0, len(data)-3000):])
	}
	c.killTasks(t)
	_ = c.Client.Close()
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	_ = c.cmd.Wait()
	_ = c.log.Close()
	killCallers(c.Socket)
	unmountBelow(c.dir)
	if err := os.RemoveAll(c.dir); err != nil {
		t.Errorf("remove containerd's directory: %v", err)
	}
}

// killTasks ends what a failed test left running.
func (c *Containerd) killTasks(t testing.TB) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), Namespace), 20*time.Second)
	defer cancel()
	list, err := c.Client.Containers(ctx)
	if err != nil {
		return
	}
	for _, container := range list {
		if task, err := container.Task(ctx, nil); err == nil {
			if !t.Failed() {
				t.Errorf("container %s was left running", container.ID())
			}
			_, _ = task.Delete(ctx, containerd.WithProcessKill)
		}
		_ = container.Delete(ctx, containerd.WithSnapshotCleanup)
	}
}

// killCallers ends the shims that a killed containerd had begun and does not know.
func killCallers(socket string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		fields := strings.Split(string(line), "\x00")
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && strings.Contains(fields[0], "containerd-shim") && slices.Contains(fields, socket) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func unmountBelow(dir string) {
	data, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(data), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			_ = unix.Unmount(fields[1], unix.MNT_DETACH)
		}
	}
}

// BusyboxPath is a statically linked busybox.
const BusyboxPath = "/bin/busybox"

var archive struct {
	once sync.Once
	data []byte
	err  error
}

// Layer is a root file system with busybox and links for the tools tests use.
func Layer(t testing.TB) []byte {
	t.Helper()
	archive.once.Do(func() { archive.data, archive.err = layer() })
	if archive.err != nil {
		t.Skipf("needs a static %s: %v", BusyboxPath, archive.err)
	}
	return archive.data
}

// Archive is a docker-archive of an image named name with that layer.
func Archive(t testing.TB, name string) []byte {
	t.Helper()
	return DockerArchive(t, name, Layer(t))
}

// DockerArchive wraps one layer as an image.
func DockerArchive(t testing.TB, name string, layer []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(layer)
	image := map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Env": []string{"FROM_IMAGE=yes", "PATH=/bin"}, "Cmd": []string{"/bin/sh"}, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	}
	config, _ := json.Marshal(image)
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		data []byte
	}{{"layer.tar", layer}, {"config.json", config}, {"manifest.json", manifest}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func layer() ([]byte, error) {
	data, err := os.ReadFile(BusyboxPath)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	dirs := []string{"bin", "etc", "tmp", "dev", "proc", "sys", "root", "var", "run"}
	for _, d := range dirs {
		_ = w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755})
	}
	_ = w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(data))})
	_, _ = w.Write(data)
	for _, tool := range strings.Fields("sh cat ls echo sleep id env hostname httpd wget nc true false dd grep mount pwd head tail seq yes kill stat touch printf wc ip") {
		_ = w.WriteHeader(&tar.Header{Name: "bin/" + tool, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nweb:x:1234:1234:web:/tmp:/bin/sh\n",
		"etc/group":  "root:x:0:\nweb:x:1234:\nextra:x:77:web\n",
	}
	for name, text := range files {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
		_, _ = w.Write([]byte(text))
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
