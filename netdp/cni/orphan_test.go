package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// This program is also a daemon, by this name: it attaches a pod and stays.
const (
	daemonName    = "shoal-test-daemon"
	daemonOptions = "TEST_OPTIONS"
)

// daemonIs has those of Options that such a daemon is started with.
type daemonIs struct {
	ConfDir, StateDir, NetNSDir, NetNS string
	BinDirs                            []string
	PodCIDRs                           []netip.Prefix
}

func (o daemonIs) options() Options {
	return Options{ConfDir: o.ConfDir, BinDirs: o.BinDirs, StateDir: o.StateDir, NetNSDir: o.NetNSDir, NetNS: o.NetNS, PodCIDRs: o.PodCIDRs}
}

// attachedFile is there when the daemon has attached its pod.
func attachedFile(o Options) string { return filepath.Join(filepath.Dir(o.StateDir), "attached") }

func beADaemon() int {
	var is daemonIs
	err := json.Unmarshal([]byte(os.Getenv(daemonOptions)), &is)
	o := is.options()
	var d *Driver
	if err == nil {
		d, err = Open(o)
	}
	if err == nil {
		_, err = d.Attach(context.Background(), labPod("a"))
	}
	if err == nil {
		err = os.WriteFile(attachedFile(o), nil, 0o600)
	}
	if err != nil {
		return fail(err)
	}
	_, _ = io.Copy(os.Stdout, os.Stdin) // until it is killed
	return 0
}

// killedDaemon runs one until that file is there, and kills it.
func (l *lab) killedDaemon(until string) {
	l.t.Helper()
	options, err := json.Marshal(daemonIs{
		ConfDir: l.o.ConfDir, BinDirs: l.o.BinDirs, StateDir: l.o.StateDir, NetNSDir: l.o.NetNSDir, NetNS: l.o.NetNS, PodCIDRs: l.o.PodCIDRs,
	})
	l.must(err)
	self, err := os.Executable()
	l.must(err)
	cmd := exec.Command(self)
	cmd.Args = []string{daemonName}
	cmd.Env = append(os.Environ(), daemonOptions+"="+string(options))
	cmd.Stderr = os.Stderr
	_, err = cmd.StdinPipe()
	l.must(err)
	l.must(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := os.Stat(until); err == nil {
			break
		}
		select {
		case err := <-ended:
			l.t.Fatalf("the daemon ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	l.must(cmd.Process.Kill())
	<-ended
}

// pids are those that a plugin wrote down. They are ended with the test, if they run.
func (l *lab) pids() (out []int) {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, "pids"))
	l.must(err)
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		l.must(err)
		l.t.Cleanup(func() {
			if runs(pid) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		})
		out = append(out, pid)
	}
	return out
}

// runs tells whether a process is there, and does not only wait to be reaped.
func runs(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// slowPlugin is in its own child when its daemon is killed, as bridge is in its
// ipam plugin, and would make something later.
const slowPlugin = `#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
dir=%[1]s
sh -c "
	echo $$ \$\$ > $dir/pids.new && mv $dir/pids.new $dir/pids
	while [ ! -e $dir/go ]; do sleep 0.01; done
	touch $dir/made
"
`

// TestKilledWhilePluginRuns: what the plugin of a killed daemon would still have
// made does not come after the next daemon's DEL.
func TestKilledWhilePluginRuns(t *testing.T) {
	l := newLab(t)
	bin := t.TempDir()
	l.o.BinDirs = append(l.o.BinDirs, bin)
	l.must(os.WriteFile(filepath.Join(bin, "slow"), fmt.Appendf(nil, slowPlugin, l.dir), 0o755))
	l.configure("slow")
	l.killedDaemon(filepath.Join(l.dir, "pids"))
	pids := l.pids()
	for _, pid := range pids {
		if !runs(pid) {
			t.Fatalf("process %d has ended with its daemon: the test sees nothing", pid)
		}
	}

	other := l.o // a daemon of another directory ends none of this one's
	other.StateDir = filepath.Join(t.TempDir(), "state")
	l.must(os.Mkdir(other.StateDir, 0o700))
	_, err := Open(other)
	l.must(err)
	if !runs(pids[0]) {
		t.Error("another daemon's plugin was ended")
	}

	l.open()
	for _, pid := range pids {
		if runs(pid) {
			t.Errorf("process %d still runs", pid)
		}
	}
	l.detach("a")
	l.must(os.WriteFile(filepath.Join(l.dir, "go"), nil, 0o600))
	for _, pid := range pids {
		if !ended(pid) {
			t.Errorf("process %d does not end", pid)
		}
	}
	if _, err := os.Stat(filepath.Join(l.dir, "made")); err == nil {
		t.Error("the plugin made something after DEL")
	}
	l.nothingLeft()
}

// TestKilledDaemonKeepsHelpers: what plugins left running for a pod goes on.
func TestKilledDaemonKeepsHelpers(t *testing.T) {
	l := newLab(t)
	l.configure(leaver)
	l.killedDaemon(attachedFile(l.o))
	l.open()
	for _, pid := range l.pids() {
		if !runs(pid) {
			t.Errorf("process %d was ended", pid)
		}
	}
	l.detach("a")
	l.nothingLeft()
}
