//go:build linux

package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"shoal/cmd/shoal/internal/daemon"
	"shoal/netdp"
	"shoal/netdp/cni"
)

// host is what is looked at.
type host struct {
	Options
	mtu int // of the default route's link, 0 when not known
}

func lookRoot(context.Context, *host) Finding {
	if os.Geteuid() != 0 {
		return fail("sudo shoal doctor", "not root; the daemon needs it, and so do most checks below")
	}
	return ok("running as root")
}

func lookKernel(context.Context, *host) Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return skip("read kernel version: %v", err)
	}
	return judgeKernel(unix.ByteSliceToString(u.Release[:]))
}

func lookFeatures(context.Context, *host) Finding {
	if os.Geteuid() != 0 {
		return skip("needs root")
	}
	var missing []string
	needed := netdp.Features()
	for _, f := range needed {
		if err := f.Check(); err != nil {
			missing = append(missing, err.Error())
		}
	}
	if len(missing) > 0 {
		return fail("install a newer kernel, for example: apt-get install linux-image-amd64", "%s", strings.Join(missing, "; "))
	}
	return ok("all %d features of eBPF that services need", len(needed))
}

func lookCgroups(context.Context, *host) Finding {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2", "cgroup"))
	if err != nil {
		return skip("read mounts: %v", err)
	}
	v1, v2 := 0, ""
	for _, m := range mounts {
		if m.FSType == "cgroup" {
			v1++
		} else if v2 == "" {
			v2 = m.Mountpoint
		}
	}
	switch {
	case v2 == "":
		return fail("mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified", "no cgroup2 hierarchy is mounted; services are seen through one")
	case v1 > 0:
		return ok("cgroup2 at %s beside %d hierarchies of cgroup v1", v2, v1)
	}
	return ok("cgroup2 at %s", v2)
}

func lookBPFFS(context.Context, *host) Finding {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("bpf"))
	if err != nil {
		return skip("read mounts: %v", err)
	}
	if len(mounts) > 0 {
		return ok("a bpffs is at %s", mounts[0].Mountpoint)
	}
	if !filesystem("bpf") {
		return fail("install a kernel with CONFIG_BPF_SYSCALL", "the kernel has no bpffs")
	}
	return ok("none is mounted yet; the daemon mounts its own")
}

// filesystem reports whether the kernel knows the type now.
func filesystem(name string) bool {
	types, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(types)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == name {
			return true
		}
	}
	return false
}

// module checks for a part of the kernel that may be a module.
func module(name string, severity Result, without string) func(context.Context, *host) Finding {
	return func(context.Context, *host) Finding {
		_, err := os.Stat("/sys/module/" + name)
		return judgeModule(name, err == nil || filesystem(name), loadable(name), severity, without)
	}
}

func loadable(name string) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		content, err := os.ReadFile(filepath.Join(dir, list))
		if err == nil && strings.Contains(string(content), "/"+name+".ko") {
			return true
		}
	}
	return false
}

func lookContainerd(ctx context.Context, h *host) Finding {
	socket := h.Config.Containerd
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return judgeNoContainerd(socket, err)
	}
	_ = conn.Close()
	client, err := containerd.New(socket, containerd.WithTimeout(dialTimeout))
	if err == nil {
		defer func() { _ = client.Close() }()
		var version containerd.Version
		if version, err = client.Version(ctx); err == nil {
			return ok("containerd %s at %s", version.Version, socket)
		}
	}
	return fail("systemctl restart containerd", "what listens at %s does not answer as containerd: %v", socket, err)
}

// judgeNoContainerd: at its usual place the daemon starts one.
func judgeNoContainerd(socket string, err error) Finding {
	path, missing := exec.LookPath("containerd")
	switch {
	case errors.Is(err, fs.ErrPermission):
		return skip("needs root")
	case missing != nil:
		return fail("apt-get install containerd", "none answers at %s and none is installed", socket)
	case socket == daemon.DefaultContainerd:
		return ok("none answers at %s; the daemon starts %s", socket, path)
	}
	return fail("systemctl start containerd", "none answers at %s: %v", socket, err)
}

func lookRunc(ctx context.Context, _ *host) Finding {
	path, err := exec.LookPath("runc")
	if err != nil {
		return fail("apt-get install runc", "runc is not installed")
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fail("apt-get install --reinstall runc", "%s --version: %v", path, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return ok("%s at %s", first, path)
}

// lookForwarding: the daemon turns forwarding on for the links it uses, by
// itself; that needs a /proc/sys it can write.
func lookForwarding(context.Context, *host) Finding {
	const path = "/proc/sys/net/ipv4/conf/all/forwarding"
	now, err := os.ReadFile(path)
	if err != nil {
		return skip("read %s: %v", path, err)
	}
	if err := unix.Access(path, unix.W_OK); err != nil {
		if os.Geteuid() != 0 {
			return skip("needs root")
		}
		return fail("mount -o remount,rw /proc/sys", "%s cannot be written: %v; the daemon turns forwarding on for its links", path, err)
	}
	if strings.TrimSpace(string(now)) == "1" {
		return ok("the kernel forwards IPv4")
	}
	return ok("the daemon turns it on for the links it uses")
}

// lookIPv6: without it pods have IPv4 only, so it is no fault.
func lookIPv6(_ context.Context, h *host) Finding {
	if h.Config.IPv6 == "off" {
		return skip("switched off by --ipv6 off")
	}
	const path = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	off, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return judgeIPv6(false, false)
	}
	if err != nil {
		return skip("read %s: %v", path, err)
	}
	return judgeIPv6(true, strings.TrimSpace(string(off)) == "0")
}

func judgeIPv6(known, on bool) Finding {
	switch {
	case !known:
		return warn("boot without ipv6.disable=1, or start shoal with --ipv6 off", "the kernel has no IPv6: pods of this host get IPv4 only")
	case !on:
		return warn("sysctl -w net.ipv6.conf.all.disable_ipv6=0, or start shoal with --ipv6 off", "IPv6 is switched off: pods of this host get IPv4 only")
	}
	return ok("pods get IPv6 beside IPv4")
}

// lookCNI looks where the host's configuration says that networks and plugins are.
func lookCNI(_ context.Context, h *host) Finding {
	if h.Config.NetworkDriver != daemon.NetworkDriverCNI {
		links, err := daemon.PluginLinks()
		if err != nil {
			return skip("list interfaces: %v", err)
		}
		return judgeLinks(links)
	}
	if err := (cni.Options{ConfDir: h.Config.CNIConfDir, BinDirs: h.Config.CNIBinDirs}).Look(); err != nil {
		return fail("ls "+strings.Join(append([]string{h.Config.CNIConfDir}, h.Config.CNIBinDirs...), " "), "pods get no network: %v", err)
	}
	return ok("a network in %s, and all plugins it needs", h.Config.CNIConfDir)
}

// judgeLinks is for a host whose pods have shoal's own network.
func judgeLinks(links []cni.Link) Finding {
	if len(links) == 0 {
		return skip("pods get shoal's own network")
	}
	l := links[0]
	return warn("ip link delete "+l.Name, "%s has an address of pods, %s, and takes packets for them that nothing else does; a plugin may have left it", l.Name, l.Address)
}

// existing is path or its closest parent that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" {
			return path
		}
		path = filepath.Dir(path)
	}
}

func lookDisk(_ context.Context, h *host) Finding {
	dir := existing(h.Config.DataDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return skip("measure %s: %v", dir, err)
	}
	return judgeDisk(dir, st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize))
}

// fsyncs are enough for a median, and 4 KiB is what a small write takes.
const fsyncs, fsyncBytes = 16, 4096

func lookFsync(ctx context.Context, h *host) Finding {
	dir := existing(h.Config.DataDir)
	file, err := os.CreateTemp(dir, ".shoal-doctor-*")
	if errors.Is(err, fs.ErrPermission) {
		return skip("needs root")
	}
	if err != nil {
		return fail("df -h "+dir, "cannot write below %s: %v", dir, err)
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	var latencies []time.Duration
	for range fsyncs {
		started := time.Now()
		if _, err := file.Write(make([]byte, fsyncBytes)); err != nil {
			return fail("df -h "+dir, "cannot write below %s: %v", dir, err)
		}
		if err := file.Sync(); err != nil {
			return fail("dmesg | tail", "cannot sync below %s: %v", dir, err)
		}
		latencies = append(latencies, time.Since(started))
		if ctx.Err() != nil {
			break
		}
	}
	return judgeFsync(dir, latencies)
}

func lookMemory(context.Context, *host) Finding {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return skip("read memory: %v", err)
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseUint(fields[1], 10, 64)
			if err == nil {
				return judgeMemory(kib << 10)
			}
		}
	}
	return skip("the kernel does not tell how much memory is available")
}

func lookClock(context.Context, *host) Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return skip("ask for the clock's state: %v", err)
	}
	return judgeClock(state, t.Status)
}

func lookName(ctx context.Context, h *host) Finding {
	name, err := os.Hostname()
	if err != nil {
		return fail("hostnamectl set-hostname NAME", "this host has no name: %v", err)
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil || len(addrs) == 0 {
		return warn(fmt.Sprintf("echo '%s %s' >> /etc/hosts", h.Config.NodeIP, name), "the name %s of this host does not resolve", name)
	}
	return ok("%s is %s", name, strings.Join(addrs, ", "))
}
