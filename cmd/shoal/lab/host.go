//go:build linux

package lab

import (
	"bufio"
	"context"
	_ "embed" // the script of a host's first process
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed host.sh
var hostScript string

const (
	// hostWithin bounds a few mounts.
	hostWithin = 30 * time.Second
	// readyWithin bounds the start of a daemon, which gives up by itself before,
	// on a machine whose cores are shared by all peers.
	readyWithin = 5 * time.Minute
	// reachWithin bounds the wait for a daemon that is ready to be so over its link.
	reachWithin = time.Minute
	// softPercent of a host's memory is the most a daemon's heap shall take; the
	// rest is for containerd and pods.
	softPercent = 70
	// tailBytes is how much of a log an error quotes.
	tailBytes = 2048

	apiPort    = "6443"
	gossipPort = "7946"
	// What a daemon uses by default is the host's own here.
	dataDir    = "/var/lib/shoal"
	kubeconfig = dataDir + "/admin.kubeconfig"
	daemonLog  = "shoal.log"
)

func (l *Lab) hostDir(p *peer) string { return filepath.Join(l.Dir, strconv.Itoa(p.Number)) }

// dataPath is a file of a peer's data directory as the machine sees it.
func (l *Lab) dataPath(p *peer, name string) string {
	return filepath.Join(l.hostDir(p), "lib", "shoal", name)
}

// peerGroup is a host's control group; its own processes are in a group below,
// because a group of version 2 holds processes or groups and not both.
func (l *Lab) peerGroup(n int) string { return filepath.Join(l.Group(), strconv.Itoa(n)) }
func (l *Lab) hostGroup(n int) string { return filepath.Join(l.peerGroup(n), "host") }

// boot starts a host and its daemon; flags are for this start alone.
func (l *Lab) boot(ctx context.Context, p *peer, flags []string, progress *steps) error {
	if err := l.bootHost(ctx, p); err != nil {
		return fmt.Errorf("start host %s: %w", p.Name, err)
	}
	if err := l.bootDaemon(ctx, p, flags); err != nil {
		return err
	}
	if err := l.awaitAPI(ctx, p); err != nil {
		return err
	}
	progress.say("%s is ready at https://%s:%s", p.Name, p.Address, apiPort)
	return nil
}

// awaitAPI returns once this machine finds a peer ready. Over a bad link that
// may be never, and whoever made it bad knows that the daemon said it was ready.
func (l *Lab) awaitAPI(ctx context.Context, p *peer) error {
	if p.Slow != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	for {
		answer := l.ask(ctx, p)
		if answer == APIReady {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reach %s at https://%s:%s from this machine: %s (%w); see %s", p.Name, p.Address, apiPort, answer, ctx.Err(), l.dataPath(p, daemonLog))
		case <-time.After(poll):
		}
	}
}

// bootHost makes a host without a daemon, with its link and what the record
// says of it.
func (l *Lab) bootHost(ctx context.Context, p *peer) error {
	for _, dir := range []string{"log", "lib", "lib/shoal"} {
		if err := os.MkdirAll(filepath.Join(l.hostDir(p), dir), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if _, err := l.groups.limit(l.peerGroup(p.Number), l.state.Memory); err != nil {
		return err
	}
	pid, err := l.startInit(ctx, p)
	if err != nil {
		return err
	}
	p.Init, p.Daemon, p.Killed = processOf(pid), process{}, false
	if err := l.plug(p); err != nil {
		return err
	}
	return errors.Join(l.filter(p), l.slow(ctx, p))
}

// startInit starts a host's first process and waits until its file system is
// the host's.
func (l *Lab) startInit(ctx context.Context, p *peer) (int, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = read.Close() }()
	output, err := os.Create(filepath.Join(l.hostDir(p), "host.log"))
	if err != nil {
		return 0, fmt.Errorf("open host log: %w", err)
	}
	defer func() { _ = output.Close() }()
	cmd := exec.Command("sh", "-e", "-c", hostScript, "shoal-lab", l.hostDir(p), p.Name)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	err = l.groups.spawn(cmd, l.hostGroup(p.Number), 0)
	_ = write.Close()
	if err != nil {
		return 0, fmt.Errorf("start in new namespaces: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaps it if this program is still there
	ctx, cancel := context.WithTimeout(ctx, hostWithin)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Now()) })()
	if line, err := bufio.NewReader(read).ReadString('\n'); err != nil || line != "ready\n" {
		return 0, fmt.Errorf("its first process failed: %w: %s", because(ctx, err), tail(output.Name()))
	}
	return cmd.Process.Pid, nil
}

// bootDaemon starts the daemon of a host that runs and waits until it is ready.
func (l *Lab) bootDaemon(ctx context.Context, p *peer, flags []string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	join, err := l.joinFlags(ctx, p)
	if err != nil {
		return err
	}
	argv := slices.Concat([]string{l.state.Shoal, "start"}, l.ownFlags(p), join, l.state.StartFlags, flags)
	log, err := os.OpenFile(l.dataPath(p, daemonLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", p.Name, err)
	}
	defer func() { _ = log.Close() }()
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = read.Close() }()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	// The daemon tells on descriptor 3 that it is ready, as it does `shoal start
	// --detach`. The soft limit makes it collect garbage before the group's
	// limit makes the kernel kill it.
	cmd.Env = append(environment(l.state.Shoal), "SHOAL_BACKGROUND=1", "GOMEMLIMIT="+strconv.FormatInt(l.state.Memory*softPercent/100, 10))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = l.groups.spawn(cmd, l.hostGroup(p.Number), p.Init.Pid)
	_ = write.Close()
	if err != nil {
		return fmt.Errorf("start daemon of %s: %w", p.Name, err)
	}
	go func() { _ = cmd.Wait() }() // reaps it if this program is still there
	p.Daemon = processOf(cmd.Process.Pid)
	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Now()) })
	defer stop()
	if _, err := bufio.NewReader(read).ReadByte(); err != nil {
		if err = because(ctx, err); errors.Is(err, io.EOF) {
			err = errors.New("it ended")
		}
		return fmt.Errorf("start daemon of %s: %w; the end of its log:\n%s\nFlags of `shoal start` that it asks for are given as in `sudo shoal lab start %d --start-flag=--join=HOST:7946`",
			p.Name, err, tail(log.Name()), p.Number)
	}
	p.Started = true
	return nil
}

// environment is what a host's processes find; PATH has the peers' own shoal
// first.
func environment(shoal string) []string {
	environment := []string{"PATH=" + filepath.Dir(shoal) + ":" + os.Getenv("PATH"), "HOME=/root", "KUBECONFIG=" + kubeconfig}
	for _, name := range []string{"TERM", "LANG", "LC_ALL"} {
		if value, ok := os.LookupEnv(name); ok {
			environment = append(environment, name+"="+value)
		}
	}
	return environment
}

// tokenFlag finds the token in the command line that `shoal token create` prints.
var tokenFlag = regexp.MustCompile(`--token[ =](\S+)`)

// joinFlags are the flags with which a peer's first start joins the cell of
// peer 1. Each gets a token of its own, so that it does not matter whether
// tokens serve once.
func (l *Lab) joinFlags(ctx context.Context, p *peer) ([]string, error) {
	first := l.state.Peers[0]
	if l.state.Separate || p.Started || p == first {
		return nil, nil
	}
	var stdout, stderr strings.Builder
	cmd := command(ctx, l.state.Shoal, []string{l.state.Shoal, "token", "create"})
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := l.groups.spawn(cmd, l.hostGroup(first.Number), first.Init.Pid); err != nil {
		return nil, fmt.Errorf("make a token for %s: %w", p.Name, err)
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("make a token for %s: %w: %s", p.Name, err, stderr.String())
	}
	found := tokenFlag.FindStringSubmatch(stdout.String())
	if found == nil {
		return nil, fmt.Errorf("make a token for %s: `shoal token create` printed none", p.Name)
	}
	return []string{"--join", first.Address.String() + ":" + gossipPort, "--token", found[1]}, nil
}

// command is a command line for a host; its program is looked for in the host's
// PATH.
func command(ctx context.Context, shoal string, argv []string) *exec.Cmd {
	program := argv[0]
	if beside := filepath.Join(filepath.Dir(shoal), program); !strings.Contains(program, "/") {
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			program = beside
		}
	}
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	cmd.Env = environment(shoal)
	return cmd
}

// Kill ends a host as a power cut does: its daemon, its containers and their
// network are gone at once, and its link with them. Its disk stays.
func (l *Lab) Kill(ctx context.Context, n int) error {
	return l.change(ctx, func() error {
		p, err := l.state.peer(n)
		if err != nil {
			return err
		}
		p.Killed, p.Init, p.Daemon = true, process{}, process{}
		return errors.Join(
			// First the link: the kernel takes its time for the rest.
			l.unplug(ctx, func(name string) bool { return name == l.port(n) }),
			l.groups.remove(ctx, l.peerGroup(n)),
			l.groups.remove(ctx, l.relayGroup(n)),
		)
	})
}

// Start brings a killed host back with its disk, or the daemon of a host that
// runs without one.
//
// The flags of `shoal start` are for this start, after those that all have.
func (l *Lab) Start(ctx context.Context, n int, flags ...string) error {
	if err := checkFlags(flags); err != nil {
		return err
	}
	return l.change(ctx, func() error {
		p, err := l.state.peer(n)
		if err != nil {
			return err
		}
		switch {
		case p.Init.alive() && p.Daemon.alive():
			return fmt.Errorf("%s runs already (daemon pid %d)", p.Name, p.Daemon.Pid)
		case p.Init.alive():
			return l.bootDaemon(ctx, p, flags)
		}
		// It may have died of something else than Kill.
		if err := errors.Join(
			l.groups.remove(ctx, l.peerGroup(n)), l.groups.remove(ctx, l.relayGroup(n)),
			l.unplug(ctx, func(name string) bool { return name == l.port(n) || name == l.slowTap(n) }),
		); err != nil {
			return err
		}
		return l.boot(ctx, p, flags, newSteps(nil))
	})
}

// because is the reason why reading from a pipe failed: a context that ends
// makes it time out.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data[max(0, len(data)-tailBytes):]))
}
