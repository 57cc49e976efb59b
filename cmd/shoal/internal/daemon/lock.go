//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const lockFile = "daemon.lock"

// lock is the data directory's: held for as long as the daemon lives, by
// flock, so that it is free again however the daemon ended. The file holds the
// daemon's pid for `shoal stop`.
type lock struct{ file *os.File }

// errLocked says that another daemon runs on the data directory.
var errLocked = errors.New("data directory is in use")

func acquireLock(dataDir string) (*lock, error) {
	path := filepath.Join(dataDir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := flock(file); err != nil {
		pid := readPID(file)
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: a shoal daemon (pid %d) already runs on %s; stop it with `shoal stop --data-dir %s`, or give another --data-dir", errLocked, pid, dataDir, dataDir)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := errors.Join(file.Truncate(0), writePID(file)); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write lock file: %w", err)
	}
	return &lock{file}, nil
}

// A daemon that was killed while it started another process may have left the
// lock with that: it lets go when it executes its program.
const (
	inheritedWithin = 3 * time.Second
	inheritedPoll   = 10 * time.Millisecond
)

// flock locks the file, and waits a little when the daemon that the file names
// is no more.
func flock(file *os.File) error {
	for deadline := time.Now().Add(inheritedWithin); ; time.Sleep(inheritedPoll) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
		if pid := readPID(file); pid > 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return err
		}
	}
}

func writePID(file *os.File) error {
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func readPID(file *os.File) int {
	buf := make([]byte, 32)
	n, _ := file.ReadAt(buf, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	return pid
}

func (l *lock) release() { _ = l.file.Close() }

// Running returns the pid of the daemon on dataDir, 0 when none runs.
func Running(dataDir string) (int, error) { return running(orDefault(dataDir, DefaultDataDir)) }

// running returns the pid of the daemon on dataDir, 0 when none runs.
func running(dataDir string) (int, error) {
	file, err := os.OpenFile(filepath.Join(dataDir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open lock file: %w", err)
	}
	defer func() { _ = file.Close() }()
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return readPID(file), nil
	}
	return 0, err
}
