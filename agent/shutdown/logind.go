package shutdown

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// logind's names: https://www.freedesktop.org/software/systemd/man/org.freedesktop.login1.html
const (
	logindService = "org.freedesktop.login1"
	logindPath    = dbus.ObjectPath("/org/freedesktop/login1")
	logindManager = "org.freedesktop.login1.Manager"
	prepareSignal = "PrepareForShutdown"
)

// callTimeout bounds a call to logind.
const callTimeout = 10 * time.Second

// logind is one connection to it.
type logind struct {
	conn    *dbus.Conn
	signals chan *dbus.Signal
}

// dial connects to the bus at address, or the system's if that is empty.
func dial(ctx context.Context, address string) (*logind, error) {
	var conn *dbus.Conn
	var err error
	if address == "" {
		conn, err = dbus.ConnectSystemBus(dbus.WithContext(ctx))
	} else {
		conn, err = dbus.Connect(address, dbus.WithContext(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("connect to D-Bus: %w", err)
	}
	l := &logind{conn: conn, signals: make(chan *dbus.Signal, 8)}
	if err := conn.AddMatchSignal(dbus.WithMatchInterface(logindManager), dbus.WithMatchMember(prepareSignal), dbus.WithMatchObjectPath(logindPath)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for shutdowns: %w", err), conn.Close())
	}
	conn.Signal(l.signals)
	return l, nil
}

func (l *logind) close() { _ = l.conn.Close() }

func (l *logind) object() dbus.BusObject { return l.conn.Object(logindService, logindPath) }

// delay is how long logind lets a shutdown be held up.
func (l *logind) delay() (time.Duration, error) {
	value, err := l.object().GetProperty(logindManager + ".InhibitDelayMaxUSec")
	if err != nil {
		return 0, fmt.Errorf("ask logind how long it waits: %w", err)
	}
	usec, ok := value.Value().(uint64)
	if !ok {
		return 0, errors.New("ask logind how long it waits: no number")
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// inhibit holds shutdowns up until the file is closed.
func (l *logind) inhibit(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var fd dbus.UnixFD
	err := l.object().CallWithContext(ctx, logindManager+".Inhibit", 0, "shutdown", "shoal", "shoal ends this host's pods in order", "delay").Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("ask logind to wait for pods: %w", err)
	}
	unix.CloseOnExec(int(fd))
	return os.NewFile(uintptr(fd), "inhibitor"), nil
}

// setDelay has logind wait longer, by a file of its configuration, as the
// kubelet does.
func (l *logind) setDelay(ctx context.Context, dir string, d time.Duration) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("configure logind: %w", err)
	}
	text := fmt.Sprintf("# Written by shoal, whose pods get this long at a shutdown.\n[Login]\nInhibitDelayMaxSec=%.0f\n", d.Seconds())
	if err := os.WriteFile(filepath.Join(dir, "99-shoal.conf"), []byte(text), 0o644); err != nil { //nolint:gosec // as all of /etc/systemd
		return fmt.Errorf("configure logind: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	systemd := l.conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	call := systemd.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.KillUnit", 0, "systemd-logind.service", "all", int32(unix.SIGHUP))
	if call.Err != nil {
		return fmt.Errorf("have logind read its configuration: %w", call.Err)
	}
	return nil
}

// next waits for the next word on a shutdown: it begins, or was cancelled. ok
// is false once the connection has ended.
func (l *logind) next(ctx context.Context) (begins, ok bool) {
	for {
		select {
		case <-ctx.Done():
			return false, false
		case s, open := <-l.signals:
			if !open {
				return false, false
			}
			if s == nil || s.Name != logindManager+"."+prepareSignal || len(s.Body) == 0 {
				continue
			}
			if b, isBool := s.Body[0].(bool); isBool {
				return b, true
			}
		}
	}
}
