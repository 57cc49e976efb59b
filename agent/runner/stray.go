package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal/agent/logwriter"
)

// A daemon that is killed while containerd makes a container for it takes the
// request with it. containerd gives up, removes the container's bundle (the
// directory in which the container's shim runs) and forgets the shim, which may
// stay: it waits for ever for the reader of its log, or with its log writer for a
// runtime that is no more. Such a shim is worse than a leak. It still listens at
// the address of its pod, so the pod's next container would be given to it.

const (
	// strayAgain is when those are looked for that containerd was still busy
	// with when the runner began: it takes up to 5 s to give up one.
	strayAgain = 15 * time.Second
	// strayPause is between two looks, both of which must find a shim forgotten:
	// the list of what containerd knows is not read in one piece.
	strayPause = 500 * time.Millisecond
)

// deletedMark is what the kernel puts behind the name of a directory that is no
// more (proc(5), /proc/PID/cwd).
const deletedMark = " (deleted)"

// strayShim is a shim of our containerd and namespace whose bundle is gone.
type strayShim struct {
	pid   int
	state string // containerd's directory of the namespace's bundles
}

// sweepStrays ends shims that containerd has forgotten, when it has given up
// what an earlier daemon had asked for.
func (r *Runner) sweepStrays(ctx context.Context, before time.Duration) {
	if pause(ctx, strayAgain) {
		r.endStrays(ctx, before)
	}
}

// endStrays ends shims that were started before that time since boot, serve
// nobody, and whose containers containerd knows no more.
func (r *Runner) endStrays(ctx context.Context, before time.Duration) {
	list := r.strays(before)
	if len(list) == 0 || !pause(ctx, strayPause) {
		return
	}
	still := r.strays(before)
	for _, s := range list {
		if !slices.Contains(still, s) {
			continue
		}
		if err := s.end(); err != nil {
			r.Logger.Warn("process that containerd has forgotten could not be ended", "pid", s.pid, "error", err)
			continue
		}
		r.Logger.Info("ended a container's shim that containerd had forgotten", "pid", s.pid)
	}
}

func (r *Runner) strays(before time.Duration) []strayShim {
	before = before.Truncate(tick) // what began in the same tick may have begun after
	return r.shims(func(s strayShim, gone bool) bool {
		began, err := startOf(s.pid)
		return gone && err == nil && began < before && !s.named()
	})
}

// shims gives those shims of our containerd and namespace that want has. It is
// told whether the bundle is gone in which the shim began.
func (r *Runner) shims(want func(s strayShim, gone bool) bool) []strayShim {
	conn, ok := r.Client.Conn().(interface{ Target() string })
	if !ok {
		return nil
	}
	socket, err := os.Stat(strings.TrimPrefix(conn.Target(), "unix://"))
	if err != nil {
		return nil // of a containerd that is not reached by a file, nothing is known
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []strayShim
	for _, file := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		s, address, gone, ok := shimOf(pid, r.Namespace)
		if !ok {
			continue
		}
		// The same path may be another containerd's, with a file system of its own.
		if theirs, err := os.Stat(procFile(pid, "root", address)); err != nil || !os.SameFile(socket, theirs) {
			continue
		}
		if want(s, gone) {
			out = append(out, s)
		}
	}
	return out
}

// shimOf tells if the process is a shim of the namespace, the address of its
// containerd, and whether the bundle it began in is gone.
func shimOf(pid int, namespace string) (s strayShim, address string, gone, ok bool) {
	text, err := os.ReadFile(procFile(pid, "cmdline"))
	if err != nil {
		return s, "", false, false
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-") || argAfter(args, "-namespace") != namespace {
		return s, "", false, false
	}
	bundle, err := os.Readlink(procFile(pid, "cwd"))
	if err != nil {
		return s, "", false, false
	}
	bundle, gone = strings.CutSuffix(bundle, deletedMark)
	s = strayShim{pid: pid, state: filepath.Dir(bundle)}
	return s, argAfter(args, "-address"), gone, filepath.Base(s.state) == namespace
}

func argAfter(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// named reports whether a bundle that is there has the shim's address: one shim
// serves all containers of a pod, and the one it began with may be gone. What
// cannot be read counts as named.
func (s strayShim) named() bool {
	sockets, err := s.sockets()
	if err != nil || len(sockets) == 0 { // the kernel's list may lack one while it changes
		return true
	}
	bundles, err := os.ReadDir(procFile(s.pid, "root", s.state))
	if err != nil {
		return true
	}
	return slices.ContainsFunc(bundles, func(bundle os.DirEntry) bool { return s.at(bundle.Name(), sockets) })
}

// at reports whether the container's bundle has one of the sockets as its shim's.
func (s strayShim) at(container string, sockets []string) bool {
	// containerd 1.x writes the first, 2.x the second.
	for _, name := range []string{"address", "bootstrap.json"} {
		text, _ := os.ReadFile(procFile(s.pid, "root", s.state, container, name))
		if slices.ContainsFunc(sockets, func(socket string) bool { return strings.Contains(string(text), socket) }) {
			return true
		}
	}
	return false
}

// sockets are the paths of the unix sockets that the shim has open.
func (s strayShim) sockets() ([]string, error) {
	fds, err := os.ReadDir(procFile(s.pid, "fd"))
	if err != nil {
		return nil, err
	}
	open := map[string]bool{}
	for _, fd := range fds {
		name, _ := os.Readlink(procFile(s.pid, "fd", fd.Name()))
		if inode, ok := strings.CutPrefix(name, "socket:["); ok {
			open[strings.TrimSuffix(inode, "]")] = true
		}
	}
	text, err := os.ReadFile(procFile(s.pid, "net", "unix"))
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		// "Num RefCount Protocol Flags Type St Inode Path"
		if f := strings.Fields(line); len(f) == 8 && open[f[6]] {
			out = append(out, f[7])
		}
	}
	return out, nil
}

// end kills the shim and what it has started. Log writers end by themselves, when
// they have written what is left.
func (s strayShim) end() error {
	own, err := unix.PidfdOpen(s.pid, 0)
	if err != nil {
		return unlessEnded(err)
	}
	defer unix.Close(own)
	// The number may have been given to another since it was looked at.
	if bundle, err := os.Readlink(procFile(s.pid, "cwd")); err != nil || !strings.HasSuffix(bundle, deletedMark) || filepath.Dir(bundle) != s.state {
		return nil
	}
	var below []int
	defer func() {
		for _, fd := range below {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range childrenOf(s.pid) {
		text, err := os.ReadFile(procFile(pid, "cmdline"))
		if err != nil || strings.Contains(string(text), "\x00"+logwriter.Arg+"\x00") {
			continue
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			below = append(below, fd)
		}
	}
	var errs []error
	// Before it ends: the path may be that of the pod's next shim right after.
	for _, path := range s.ownSockets() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, unlessEnded(unix.PidfdSendSignal(own, unix.SIGKILL, nil, 0)))
	for _, fd := range below {
		errs = append(errs, unlessEnded(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)))
	}
	return errors.Join(errs...)
}

// ownSockets are the files of the sockets that the shim listens at, as far as they
// are the same ones for us: nobody takes them away after it. The kernel lists a
// path with those who listen there and those who were accepted, never with who
// has connected to another's.
func (s strayShim) ownSockets() []string {
	open, err := s.sockets()
	if err != nil {
		return nil
	}
	var out []string
	for _, path := range open {
		theirs, err := os.Lstat(procFile(s.pid, "root", path))
		if err != nil || theirs.Mode().Type() != os.ModeSocket || !filepath.IsAbs(path) {
			continue
		}
		if ours, err := os.Lstat(path); err == nil && os.SameFile(ours, theirs) && !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	return out
}

// unlessEnded takes it for no error that a process has ended.
func unlessEnded(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func childrenOf(pid int) []int {
	files, _ := filepath.Glob(procFile(pid, "task", "*", "children"))
	var out []int
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}

func procFile(pid int, parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, parts...)...)
}

// sinceBoot is the time in which the kernel notes when processes start.
func sinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // never fails
	return time.Duration(t.Nano())
}

// tick is the unit of the times in proc(5)'s stat: USER_HZ is 100 on all
// architectures that Go knows.
const tick = 10 * time.Millisecond

// startOf is when a process started, since boot, rounded down to a tick: the 22nd
// field of proc(5)'s stat.
func startOf(pid int) (time.Duration, error) {
	data, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const at = 19 // behind the name, which may hold anything
	if len(fields) <= at {
		return 0, fmt.Errorf("read start of process %d: %d fields", pid, len(fields))
	}
	ticks, err := strconv.ParseInt(fields[at], 10, 64)
	return time.Duration(ticks) * tick, err
}
