package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// insideEnv carries the world's directory to the process that runs inside.
	insideEnv = "SHOAL_TEST_WORLD"
	// cgroupEnv carries the directory of the world's cgroup.
	cgroupEnv = "SHOAL_TEST_CGROUP"

	// NodeAddr is the host's address on its one link, eth0; 192.0.2.0/24 is
	// reserved for documentation (RFC 5737), so it exists nowhere else.
	NodeAddr = "192.0.2.1"
	// OutsideAddr is the address of the other machine on that link.
	OutsideAddr = "192.0.2.2"
	// NodeAddr6 is the host's IPv6 address, of 2001:db8::/32, which is reserved
	// for documentation (RFC 3849).
	NodeAddr6 = "2001:db8:2::1"
	// OutsideAddr6 is the IPv6 address of the other machine.
	OutsideAddr6 = "2001:db8:2::2"

	// outsideCgroup is the cgroup of what runs on the other machine.
	outsideCgroup = "outside"

	// goneWithin bounds how long killed processes may take to leave a cgroup.
	goneWithin = time.Minute
)

// World is the private machine the calling process runs on.
type World struct {
	// Dir holds everything the world writes; it is removed at its end.
	Dir string
	// Cgroup is the name of the host's cgroup, below the root of every
	// hierarchy, with a leading slash.
	Cgroup string
	// CgroupDir is its directory in the cgroup2 hierarchy, which the calling
	// process and all it starts belong to.
	CgroupDir string

	outside *exec.Cmd
}

// Main calls inside within a new world and returns its result as an exit code
// for the caller. The program runs twice: the outer run makes the namespaces and
// the cgroup, starts itself again within, and cleans up when that has ended.
func Main(inside func(*World) int) int {
	if os.Getuid() != 0 {
		fmt.Println("skipped: network namespaces, containerd and eBPF need root")
		return 0
	}
	if dir := os.Getenv(insideEnv); dir != "" {
		cgroup := os.Getenv(cgroupEnv)
		name := filepath.Join("/", filepath.Base(dir), filepath.Base(cgroup))
		return enter(&World{Dir: dir, Cgroup: name, CgroupDir: cgroup}, inside)
	}
	code, err := runWorld()
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	return code
}

// runWorld is the outer run.
func runWorld() (code int, err error) {
	dir, err := os.MkdirTemp("", "shoal-test-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// Users of pods with hostUsers: false pass through, as through /run.
	if err := os.Chmod(dir, 0o711); err != nil {
		return 0, err
	}
	name := "/" + filepath.Base(dir)
	unified, err := UnifiedMount()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, removeCgroups(name)) }()
	cgroup := filepath.Join(unified, name, "host")
	for _, dir := range []string{cgroup, filepath.Join(unified, name, outsideCgroup)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	fd, err := os.Open(cgroup)
	if err != nil {
		return 0, err
	}
	defer fd.Close()

	// The death signal below belongs to the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"="+dir, cgroupEnv+"="+cgroup)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UseCgroupFD: true,
		CgroupFD:    int(fd.Fd()),
		Pdeathsig:   syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start in new namespaces: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-signals:
		_ = cmd.Process.Kill()
		err = <-done
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// enter is the inner run: it finishes the machine and calls inside.
func enter(w *World, inside func(*World) int) int {
	if err := w.finish(); err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	defer func() {
		_ = w.outside.Process.Kill()
		_ = w.outside.Wait()
	}()
	return inside(w)
}

func (w *World) finish() error {
	// A slave of the host's tree, so that nothing leaks out; shared below, as
	// a host's own root is.
	for _, flags := range []uintptr{unix.MS_REC | unix.MS_SLAVE, unix.MS_REC | unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			return fmt.Errorf("make the mounts private: %w", err)
		}
	}
	// What daemons write outside their own directories.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	logs := filepath.Join(w.Dir, "log")
	if err := os.Mkdir(logs, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(logs, "/var/log", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /var/log: %w", err)
	}
	w.outside = exec.Command("sleep", "infinity")
	w.outside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := w.outside.Start(); err != nil {
		return fmt.Errorf("start the other machine: %w", err)
	}
	pid := strconv.Itoa(w.outside.Process.Pid)
	for _, step := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", pid},
		{"ip", "address", "add", NodeAddr + "/24", "dev", "eth0"},
		{"ip", "address", "add", NodeAddr6 + "/64", "dev", "eth0", "nodad"},
		{"ip", "link", "set", "eth0", "up"},
		w.Outside("ip", "link", "set", "lo", "up"),
		w.Outside("ip", "address", "add", OutsideAddr+"/24", "dev", "eth0"),
		w.Outside("ip", "address", "add", OutsideAddr6+"/64", "dev", "eth0", "nodad"),
		w.Outside("ip", "link", "set", "eth0", "up"),
		{"ip", "route", "add", "default", "via", OutsideAddr},
		{"ip", "-6", "route", "add", "default", "via", OutsideAddr6},
	} {
		if out, err := exec.Command(step[0], step[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(step, " "), err, out)
		}
	}
	return nil
}

// Outside returns the command line that runs argv on the other machine: in its
// network, and out of the cgroup whose sockets the daemon's programs see.
func (w *World) Outside(argv ...string) []string {
	procs := filepath.Join(filepath.Dir(w.CgroupDir), outsideCgroup, "cgroup.procs")
	script := fmt.Sprintf(`echo $$ > %s && exec nsenter --target %d --net -- "$@"`, procs, w.outside.Process.Pid)
	return append([]string{"sh", "-c", script, "outside"}, argv...)
}
