package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// startWithin bounds how long a containerd may take to answer on its socket.
const startWithin = 2 * time.Minute

// Containerd is a containerd of the world's own.
type Containerd struct {
	Socket string
	// State is its state directory, with the mounts of running containers.
	State string

	config string
	cmd    *exec.Cmd
	log    *os.File
}

// Plugins that are of no use here and slow its start or write warnings.
const containerdConfig = `version = 2
root = %q
state = %q
oom_score = 0
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = %q
`

// StartContainerd starts a containerd below dir and waits until it answers.
func StartContainerd(ctx context.Context, dir string) (*Containerd, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	c := &Containerd{Socket: filepath.Join(dir, "containerd.sock"), State: filepath.Join(dir, "state")}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(containerdConfig, filepath.Join(dir, "root"), c.State, c.Socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	var err error
	if c.log, err = os.Create(filepath.Join(dir, "containerd.log")); err != nil {
		return nil, err
	}
	c.config = config
	return c, c.start(ctx)
}

// start runs containerd and waits until it answers.
func (c *Containerd) start(ctx context.Context) error {
	c.cmd = exec.Command("containerd", "--config", c.config)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	err := Until(ctx, 20*time.Millisecond, func() error {
		conn, err := net.Dial("unix", c.Socket)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		c.Stop()
		return fmt.Errorf("start containerd: %w\n%s", err, Tail(c.log.Name()))
	}
	return nil
}

// Restart ends containerd, by force as a crash would, and starts it again.
func (c *Containerd) Restart(ctx context.Context) error {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	return c.start(ctx)
}

// Pid is the process id of containerd itself.
func (c *Containerd) Pid() int { return c.cmd.Process.Pid }

// Stop ends containerd; containers that run go on.
func (c *Containerd) Stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	_ = c.cmd.Wait()
	c.log.Close()
}
