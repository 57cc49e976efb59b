package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"shoal/cmd/shoal/internal/daemon"
	"shoal/cmd/shoal/lab"

	// The log writer of containers is this binary, entered before the Go
	// runtime starts.
	_ "shoal/agent/logwriter"
)

// The daemon's threads enter pods' namespaces and end there. A program's first
// thread cannot end, and what /proc says of the program is what it says of this
// thread; so the daemon's belongs to its main goroutine alone.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "start" {
		runtime.LockOSThread()
	}
}

// DaemonCommands are the commands that run and stop this host's daemon.
type DaemonCommands struct {
	Start StartCmd `cmd:"" group:"daemon" help:"Start this host's daemon."`
	Stop  StopCmd  `cmd:"" group:"daemon" help:"Stop this host's daemon; its pods go on."`

	Doctor  DoctorCmd  `cmd:"" group:"daemon" help:"Check what this host needs to run shoal."`
	Restore RestoreCmd `cmd:"" group:"daemon" help:"Make a cell from a backup."`
	Keys    KeysCmd    `cmd:"" group:"cluster" help:"Rotate the keys of gossip and of the records on disk."`
	Lab     lab.Cmd    `cmd:"" group:"daemon" help:"Run several peers on this machine, to try and to test."`
}

// StartCmd is `shoal start`.
type StartCmd struct {
	Name                string `placeholder:"NODE" help:"The node's name (default: the host's)."`
	DataDir             string `default:"/var/lib/shoal" placeholder:"DIR" help:"Where state lives (default ${default})."`
	APIAddr             string `name:"api-addr" default:":6443" placeholder:"HOST:PORT" help:"Where to serve the Kubernetes API (default ${default})."`
	NodeIP              string `name:"node-ip" placeholder:"IP" help:"This host's address for pods and other hosts (default: the default route's)."`
	AgentPort           int    `default:"10250" placeholder:"PORT" help:"Where the agent serves logs and exec to the API server (default ${default})."`
	Containerd          string `default:"/run/containerd/containerd.sock" placeholder:"SOCKET" help:"containerd's socket; at the default one shoal starts containerd if there is none (default ${default})."`
	ContainerdNamespace string `default:"shoal" placeholder:"NS" help:"containerd namespace of pods and images (default ${default})."`
	CgroupRoot          string `placeholder:"PATH" help:"cgroup2 directory under which pods live and services are seen (default: the hierarchy's root)."`
	GossipPort          int    `group:"cell" default:"7946" placeholder:"PORT" help:"Where members of the cell hear each other; the next port carries records and lets hosts join (default ${default})."`
	Join                string `group:"cell" placeholder:"HOST[:PORT],..." help:"Join the cell of this host, given by its gossip address; several are tried in turn."`
	Token               string `group:"cell" env:"SHOAL_TOKEN" placeholder:"TOKEN" help:"The token to join with, from shoal token create. Others on this host can read a command line; $$SHOAL_TOKEN and --token-file they cannot."`
	TokenFile           string `group:"cell" placeholder:"FILE" help:"A file with the token to join with."`
	StoreKeyFile        string `placeholder:"FILE" help:"The key the records on disk are encrypted with; made if missing (default: store.key in the data directory)."`
	ImageDir            string `group:"images" placeholder:"DIR" help:"Archives put here are imported (default: images in the data directory)."`
	ImageShareMbit      int    `group:"images" default:"1000" placeholder:"MBIT" help:"How many megabits of images to give to other hosts of the cell per second; 0 gives none (default ${default})."`
	LogFormat           string `enum:"text,json" default:"text" help:"Form of log lines: text or json (default ${default})."`
	Detach              bool   `short:"d" help:"Return once the API answers; the daemon goes on in the background and logs to DIR/shoal.log."`
	WriteKubeconfig     bool   `help:"Also merge the credentials into your kubeconfig ($$KUBECONFIG or ~/.kube/config)."`

	PodFlags      `embed:"" group:"pods"`
	NetFlags      `embed:"" group:"network"`
	ResourceFlags `embed:"" group:"resources"`
	ShutdownFlags `embed:"" group:"shutdown"`
}

// Help is the detail of `shoal start --help`.
func (*StartCmd) Help() string {
	return `Examples:
  # Start in the foreground; Ctrl-C stops the daemon and leaves pods running
  sudo shoal start

  # Start in the background and use kubectl
  sudo shoal start --detach --write-kubeconfig
  kubectl get nodes

  # Join the cell of another host; on that host, shoal token create prints this
  sudo shoal start --join 192.0.2.1:7946 --token-file token`
}

// Run runs the daemon, or starts one in the background.
func (c *StartCmd) Run() error {
	config := daemon.Config{
		Name: c.Name, DataDir: c.DataDir, APIAddr: c.APIAddr, NodeIP: c.NodeIP, AgentPort: c.AgentPort,
		Manifests: c.Manifests, Containerd: c.Containerd, ContainerdNamespace: c.ContainerdNamespace, CgroupRoot: c.CgroupRoot, LogFormat: c.LogFormat, StoreKeyFile: c.StoreKeyFile,
		Version:  version,
		Runtimes: c.Runtime, UnsafeSysctls: c.AllowedUnsafeSysctls, SeccompDefault: c.SeccompDefault,
		LogMaxSize: c.ContainerLogMaxSize, LogMaxFiles: c.ContainerLogMaxFiles,
		ImageDir: c.ImageDir, ImageShareMbit: c.ImageShareMbit,
		Resources: c.ResourceFlags.config(), DevicePluginDir: c.DevicePluginDir,
		DNSStubs:   c.DNSStub,
		GossipPort: c.GossipPort, Join: c.Join, Token: c.Token,
		NoMasquerade: c.NoMasquerade, IPv6: c.IPv6, Encrypt: c.Encrypt,
		NetworkDriver: c.NetworkDriver, CNIConfDir: c.CNIConfDir, CNIBinDirs: c.CNIBinDir,
	}
	var err error
	if config.MasqueradeExcept, err = c.masqueradeExcept(); err != nil {
		return err
	}
	if config.MapLimits, err = c.mapLimits(); err != nil {
		return err
	}
	if err := c.checkDriver(); err != nil {
		return err
	}
	if config.Shutdown, err = c.shutdownPeriods(); err != nil {
		return err
	}
	if c.ImageShareMbit == 0 {
		config.ImageShareMbit = -1
	}
	if c.TokenFile != "" {
		data, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return fmt.Errorf("read --token-file: %w", err)
		}
		config.Token = strings.TrimSpace(string(data))
	}
	if c.WriteKubeconfig {
		path, err := userKubeconfig()
		if err != nil {
			return err
		}
		config.WriteKubeconfig = path
	}
	if c.Detach && !daemon.InBackground() {
		return daemon.Detach(c.DataDir, os.Stdout)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return daemon.Run(ctx, config, daemon.Output{Progress: os.Stdout, Log: os.Stderr, Ready: daemon.SignalReady}, drainOnSignal())
}

// drainOnSignal closes when `shoal stop --pods` asks for it.
func drainOnSignal() <-chan struct{} {
	drain, signals := make(chan struct{}), make(chan os.Signal, 1)
	signal.Notify(signals, daemon.DrainSignal)
	go func() {
		<-signals
		close(drain)
	}()
	return drain
}

// userKubeconfig is the kubeconfig of whoever called sudo, else root's.
func userKubeconfig() (string, error) {
	if path := os.Getenv("KUBECONFIG"); path != "" {
		return filepath.SplitList(path)[0], nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find your kubeconfig: %w; name it with $KUBECONFIG", err)
	}
	return filepath.Join(home, ".kube", "config"), nil
}

// StopCmd is `shoal stop`.
type StopCmd struct {
	DataDir string        `default:"/var/lib/shoal" placeholder:"DIR" help:"The daemon's data directory (default ${default})."`
	Pods    bool          `help:"Also stop this host's pods and take their network away."`
	Timeout time.Duration `default:"60s" help:"How long to wait for the daemon to end (default ${default})."`
}

// Help is the detail of `shoal stop --help`.
func (*StopCmd) Help() string {
	return `Pods, their connections and services go on working; the next start adopts them.

Examples:
  # Stop the daemon, for example to upgrade it
  sudo shoal stop

  # Stop everything
  sudo shoal stop --pods`
}

// Run stops the daemon.
func (c *StopCmd) Run() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	return daemon.Stop(ctx, c.DataDir, c.Pods, os.Stdout)
}
