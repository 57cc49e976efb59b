package testbed

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Logind speaks logind's part of a shutdown on a D-Bus of its own: a real bus,
// with one name on it.
type Logind struct {
	Address string
	conn    *dbus.Conn

	mu    sync.Mutex
	locks []*os.File // our ends of the pipes given out; guarded by mu
	delay time.Duration
}

const logindPath = dbus.ObjectPath("/org/freedesktop/login1")

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// StartLogind starts a bus; the test is skipped where there is no dbus-daemon.
func StartLogind(t testing.TB, delay time.Duration) *Logind {
	t.Helper()
	binary, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("needs dbus-daemon")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, filepath.Join(dir, "bus")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--config-file="+config, "--nofork", "--nopidfile", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(unix.SIGTERM); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("start dbus-daemon: %v", err)
	}
	l := &Logind{Address: strings.TrimSpace(line), delay: delay}
	if l.conn, err = dbus.Connect(l.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.conn.Close() })
	for name, object := range map[string]any{"org.freedesktop.login1.Manager": logindManager{l}, "org.freedesktop.DBus.Properties": logindProperties{l}} {
		if err := l.conn.Export(object, logindPath, name); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := l.conn.RequestName("org.freedesktop.login1", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("take logind's name: %v, %v", reply, err)
	}
	return l
}

type logindManager struct{ l *Logind }

// Inhibit is org.freedesktop.login1.Manager's.
func (m logindManager) Inhibit(_, _, _, _ string) (dbus.UnixFD, *dbus.Error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	m.l.locks = append(m.l.locks, os.NewFile(uintptr(p[0]), "lock"))
	// The bus has sent its copy on when the caller has the answer.
	time.AfterFunc(time.Second, func() { _ = unix.Close(p[1]) })
	return dbus.UnixFD(p[1]), nil
}

type logindProperties struct{ l *Logind }

// Get is org.freedesktop.DBus.Properties'.
func (p logindProperties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	if name != "InhibitDelayMaxUSec" {
		return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("no property %s", name))
	}
	return dbus.MakeVariant(uint64(p.l.delay / time.Microsecond)), nil
}

// Prepare sends PrepareForShutdown.
func (l *Logind) Prepare(t testing.TB, begins bool) {
	t.Helper()
	if err := l.conn.Emit(logindPath, "org.freedesktop.login1.Manager.PrepareForShutdown", begins); err != nil {
		t.Fatal(err)
	}
}

// Locks are how many were asked for, and how many of these are held.
func (l *Logind) Locks() (asked, held int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.locks {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 0); err == nil && (n == 0 || fds[0].Revents&unix.POLLHUP == 0) {
			held++
		}
	}
	return len(l.locks), held
}
