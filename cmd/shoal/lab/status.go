//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// askWithin bounds the question whether a peer is ready; a slow link has to be
// slower than any that a person would make to exceed it.
const askWithin = 5 * time.Second

// What a peer's API can be.
const (
	APIReady    = "ready"
	APINotReady = "not ready"
	APISilent   = "no answer"
	APIDead     = "killed"
)

// Status is how a peer is.
type Status struct {
	Number  int        `json:"number"`
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	API     string     `json:"api"`
	// Pid is the daemon's, 0 if it does not run.
	Pid int `json:"pid"`
	// MemoryBytes is the host's proportional set size with all it runs: what
	// several processes share counts once over all of them.
	MemoryBytes int64 `json:"memoryBytes"`
	Killed      bool  `json:"killed"`
	// CutFrom lists the peers it does not hear.
	CutFrom []int  `json:"cutFrom,omitempty"`
	Slow    *Shape `json:"slow,omitempty"`
}

// Peers tells how every peer is, by asking them.
func (l *Lab) Peers(ctx context.Context) ([]Status, error) {
	now, err := l.read()
	if err != nil {
		return nil, err
	}
	statuses := make([]Status, len(now.Peers))
	problems := make([]error, len(now.Peers))
	var asked sync.WaitGroup
	for i, p := range now.Peers {
		asked.Go(func() { statuses[i], problems[i] = l.status(ctx, now, p) })
	}
	asked.Wait()
	return statuses, errors.Join(problems...)
}

func (l *Lab) status(ctx context.Context, now *state, p *peer) (Status, error) {
	s := Status{Number: p.Number, Name: p.Name, Address: p.Address, Killed: p.Killed || !p.Init.alive(), Slow: p.Slow, API: APIDead}
	for _, c := range now.Cuts {
		if c.To == p.Number {
			s.CutFrom = append(s.CutFrom, c.From)
		}
	}
	if s.Killed {
		return s, nil
	}
	if p.Daemon.alive() {
		s.Pid = p.Daemon.Pid
	}
	s.API = l.ask(ctx, p)
	var err error
	s.MemoryBytes, err = l.memory(l.peerGroup(p.Number))
	return s, err
}

// ask asks a peer's API whether it is ready.
func (l *Lab) ask(ctx context.Context, p *peer) string {
	config, err := l.config(p)
	if err != nil {
		return APISilent
	}
	config.Timeout = askWithin
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return APISilent
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz", nil)
	if err != nil {
		return APISilent
	}
	response, err := client.Do(request)
	if err != nil {
		return APISilent
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return APINotReady
	}
	return APIReady
}

// memory sums what the processes of a group take.
func (l *Lab) memory(group string) (int64, error) {
	pids, err := l.groups.processes(group)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, pid := range pids {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it ended
		}
		for line := range bytes.Lines(rollup) {
			if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "Pss:" {
				kilobytes, _ := strconv.ParseInt(string(fields[1]), 10, 64)
				total += kilobytes << 10
			}
		}
	}
	return total, nil
}

// Kubeconfig returns the administrator's kubeconfig of a peer, for use on this
// machine and inside the lab.
func (l *Lab) Kubeconfig(n int) ([]byte, error) {
	p, err := l.peer(n)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(l.dataPath(p, "admin.kubeconfig"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no kubeconfig yet: its daemon has not been ready; see %s", p.Name, l.dataPath(p, daemonLog))
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig of %s: %w", p.Name, err)
	}
	return data, nil
}

// Config is Kubeconfig for a program.
func (l *Lab) Config(n int) (*rest.Config, error) {
	data, err := l.Kubeconfig(n)
	if err != nil {
		return nil, err
	}
	return clientcmd.RESTConfigFromKubeConfig(data)
}

func (l *Lab) config(p *peer) (*rest.Config, error) {
	data, err := os.ReadFile(l.dataPath(p, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	return clientcmd.RESTConfigFromKubeConfig(data)
}

// Address is where a peer is reached, from this machine and from the others.
func (l *Lab) Address(n int) (netip.Addr, error) {
	p, err := l.peer(n)
	if err != nil {
		return netip.Addr{}, err
	}
	return p.Address, nil
}

// LogPath is the file with a peer's log.
func (l *Lab) LogPath(n int) string { return l.dataPath(&peer{Number: n}, daemonLog) }

// Exec starts a command on a peer's host, with its kubeconfig in the
// environment and shoal in PATH. prepare may set the command's input and output
// before it starts; the caller waits for it. ctx ends it.
func (l *Lab) Exec(ctx context.Context, n int, argv []string, prepare func(*exec.Cmd)) (*exec.Cmd, error) {
	now, err := l.read()
	if err != nil {
		return nil, err
	}
	p, err := now.peer(n)
	if err != nil {
		return nil, err
	}
	if len(argv) == 0 {
		return nil, errors.New("exec: no command given; for example `shoal lab exec 1 -- shoal get nodes`")
	}
	if !p.Init.alive() {
		return nil, fmt.Errorf("%s does not run; bring it back with `sudo shoal lab start %d`", p.Name, n)
	}
	cmd := command(ctx, now.Shoal, argv)
	if prepare != nil {
		prepare(cmd)
	}
	if err := l.groups.spawn(cmd, l.hostGroup(n), p.Init.Pid); err != nil {
		return nil, fmt.Errorf("run %s on %s: %w", argv[0], p.Name, err)
	}
	return cmd, nil
}

// Output runs a command on a peer's host and returns what it wrote.
func (l *Lab) Output(ctx context.Context, n int, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd, err := l.Exec(ctx, n, argv, func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = &stdout, &stderr })
	if err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s on peer %d: %w: %s", argv[0], n, err, stderr.String())
	}
	return stdout.String(), nil
}
