package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// readyWithin bounds how long a daemon may take to serve its API. It is far
// above the target, so that a slow machine fails a benchmark and not a test.
const readyWithin = 4 * time.Minute

// Daemon is one `shoal start`, as a user would run it.
type Daemon struct {
	// Binary is the path of shoal.
	Binary string
	// Name, DataDir, APIAddr, Containerd, Namespace and CgroupRoot are the
	// values of the flags of `shoal start`.
	Name, DataDir, APIAddr, Containerd, Namespace, CgroupRoot string
	// GossipPort is left out when empty; two daemons on one network need two.
	GossipPort string
	// Extra is put behind the command line.
	Extra []string
	// Prefix is put before the command line, to start it somewhere else.
	Prefix []string
	// LogFile collects what all runs of the daemon print.
	LogFile string

	cmd  *exec.Cmd
	done chan struct{}
}

// NewDaemon describes the world's own daemon, with data, logs and names below
// the world's directory and the API on the node's address.
func (w *World) NewDaemon(binary string, c *Containerd) *Daemon {
	return &Daemon{
		Binary:     binary,
		Name:       "node1",
		DataDir:    filepath.Join(w.Dir, "data"),
		APIAddr:    NodeAddr + ":6443",
		Containerd: c.Socket,
		Namespace:  filepath.Base(w.Dir),
		CgroupRoot: w.CgroupDir,
		LogFile:    filepath.Join(w.Dir, "shoal.log"),
	}
}

// Argv is the command line of the daemon.
func (d *Daemon) Argv() []string {
	argv := append(slices.Clone(d.Prefix), d.Binary, "start", "--log-format", "json")
	for _, flag := range [][2]string{
		{"--name", d.Name}, {"--data-dir", d.DataDir}, {"--api-addr", d.APIAddr},
		{"--containerd", d.Containerd}, {"--containerd-namespace", d.Namespace}, {"--cgroup-root", d.CgroupRoot},
		{"--gossip-port", d.GossipPort}, {"--device-plugin-dir", filepath.Join(d.DataDir, "device-plugins")},
	} {
		if flag[1] != "" {
			argv = append(argv, flag[0], flag[1])
		}
	}
	if !slices.ContainsFunc(d.Extra, func(flag string) bool { return strings.HasPrefix(flag, "--eviction-hard") }) {
		argv = append(argv, "--eviction-hard", "none") // how full this machine is says nothing about the tests
	}
	return append(argv, d.Extra...)
}

// Kubeconfig is the path of the administrator's kubeconfig.
func (d *Daemon) Kubeconfig() string { return filepath.Join(d.DataDir, "admin.kubeconfig") }

// Pid is the process id of the daemon.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Exited is closed when the running daemon has ended.
func (d *Daemon) Exited() <-chan struct{} { return d.done }

// Start starts the daemon and returns when its API says it is ready.
func (d *Daemon) Start(ctx context.Context) error {
	if err := d.Launch(); err != nil {
		return err
	}
	return d.Ready(ctx)
}

// Launch starts the daemon's process and does not wait.
func (d *Daemon) Launch() error {
	log, err := os.OpenFile(d.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := d.Argv()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start shoal: %w", err)
	}
	d.cmd, d.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(d.done)
	return nil
}

// Ready waits until the daemon's API says it is ready.
func (d *Daemon) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, errors.New("the API was not ready in time"))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-d.done:
			stop(errors.New("the daemon ended"))
		case <-ctx.Done():
		}
	}()
	err := Until(ctx, 10*time.Millisecond, func() error { return d.readyz(ctx) })
	if err != nil {
		return fmt.Errorf("start shoal: %w\n%s", err, Tail(d.LogFile))
	}
	return nil
}

func (d *Daemon) readyz(ctx context.Context) error {
	config, err := d.RestConfig()
	if err != nil {
		return err
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// RestConfig returns the administrator's client configuration, without
// client-side limits.
func (d *Daemon) RestConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", d.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}

// Kill ends the daemon with SIGKILL and waits for it.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// Terminate asks the daemon to end and waits for it.
func (d *Daemon) Terminate() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	<-d.done
}

// Command returns the command line of a client command of shoal against this
// daemon.
func (d *Daemon) Command(args ...string) Command {
	return Command{
		Argv: append([]string{d.Binary}, args...),
		Env:  []string{"KUBECONFIG=" + d.Kubeconfig()},
	}
}

// Within returns the command line that runs argv in the daemon's network.
func (d *Daemon) Within(argv ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(d.Pid()), "--net", "--"}, argv...)
}
