//go:build linux

package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	v1 "shoal/api/control/v1"
)

// What a host should have.
const (
	// minKernel is Debian 12's; tcxKernel attaches programs without clsact.
	minMajor, minMinor = 6, 1
	// diskFail is where the store refuses writes, with room to compact; diskWarn
	// leaves room for images.
	diskFail, diskWarn = 256 << 20, 4 << 30
	// fsyncWarn is etcd's own advice for its log; every write waits for one.
	fsyncWarn = 10 * time.Millisecond
	// memoryFail is what the daemon takes idle, memoryWarn with some pods.
	memoryFail, memoryWarn = 256 << 20, 768 << 20
	// skewFail is where writes of the other are held back, skewWarn half of it.
	skewFail, skewWarn = 500 * time.Millisecond, 250 * time.Millisecond
	// mtuFail is IPv6's least, mtuWarn Ethernet's.
	mtuFail, mtuWarn = 1280, 1500
)

func judgeKernel(release string) Finding {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return warn("uname -r", "cannot read the kernel's version from %q", release)
	}
	if major < minMajor || major == minMajor && minor < minMinor {
		return fail(fmt.Sprintf("install Linux %d.%d or later, for example Debian 12's: apt-get install linux-image-amd64", minMajor, minMinor),
			"Linux %s; shoal needs %d.%d", release, minMajor, minMinor)
	}
	return ok("Linux %s", release)
}

// judgeModule: a file system or device the kernel has or can load.
func judgeModule(name string, loaded, loadable bool, severity Result, without string) Finding {
	switch {
	case loaded:
		return ok("the kernel has %s", name)
	case loadable:
		return ok("the kernel can load %s", name)
	}
	f := fail("modprobe "+name, "the kernel has no %s: %s", name, without)
	f.Result = severity
	return f
}

func judgeDisk(path string, free, total uint64) Finding {
	fix := "df -h " + path + "; free some space, or give another --data-dir"
	text := fmt.Sprintf("%s of %s free below %s", size(free), size(total), path)
	switch {
	case free < diskFail:
		return fail(fix, "%s; the store refuses writes", text)
	case free < diskWarn:
		return warn(fix, "%s; little for images", text)
	}
	return ok("%s", text)
}

func judgeFsync(path string, latencies []time.Duration) Finding {
	slices.Sort(latencies)
	median, worst := latencies[len(latencies)/2], latencies[len(latencies)-1]
	text := fmt.Sprintf("a synced write below %s takes %s, at worst %s", path, median.Round(10*time.Microsecond), worst.Round(10*time.Microsecond))
	if median > fsyncWarn {
		return warn("put --data-dir on a faster disk", "%s; every API write waits that long", text)
	}
	return ok("%s", text)
}

func judgeMemory(available uint64) Finding {
	text := size(available) + " available"
	switch {
	case available < memoryFail:
		return fail("free -m; stop what is not needed", "%s; the daemon alone takes %s", text, size(memoryFail))
	case available < memoryWarn:
		return warn("free -m; stop what is not needed", "%s; little for pods", text)
	}
	return ok("%s", text)
}

// judgeClock reads what adjtimex(2) tells.
func judgeClock(state int, status int32) Finding {
	const fix = "timedatectl set-ntp true, or: apt-get install chrony"
	if state == unix.TIME_ERROR || status&unix.STA_UNSYNC != 0 {
		return warn(fix, "the clock is not synchronised; peers whose clocks differ by half a second hold back each other's writes")
	}
	return ok("the clock is synchronised")
}

func judgeSkew(peers []v1.Peer, self string) Finding {
	worst, name, known := time.Duration(0), "", 0
	for _, p := range peers {
		if p.Name == self || p.SkewMillis == nil {
			continue
		}
		known++
		skew := time.Duration(*p.SkewMillis * float64(time.Millisecond))
		if skew.Abs() >= worst.Abs() {
			worst, name = skew, p.Name
		}
	}
	const fix = "timedatectl set-ntp true on both hosts"
	switch {
	case known == 0:
		return skip("no clock of another peer is known")
	case worst.Abs() > skewFail:
		return fail(fix, "the clock of %s differs by %s; writes are held back", name, worst.Round(time.Millisecond))
	case worst.Abs() > skewWarn:
		return warn(fix, "the clock of %s differs by %s", name, worst.Round(time.Millisecond))
	}
	return ok("%d clocks differ by %s at most", known, worst.Abs().Round(time.Millisecond))
}

func judgeMTU(link string, mtu int) Finding {
	fix := fmt.Sprintf("ip link set dev %s mtu %d", link, mtuWarn)
	switch {
	case mtu < mtuFail:
		return fail(fix, "%s has an MTU of %d; %d is the least", link, mtu, mtuFail)
	case mtu < mtuWarn:
		return warn(fix, "%s has an MTU of %d; pods get less than Ethernet's", link, mtu)
	}
	return ok("%s has an MTU of %d", link, mtu)
}

// holder is the process that has a port.
type holder struct {
	pid  int
	name string
}

func judgePort(network string, number int, free bool, h holder, daemonPID int) Finding {
	what := fmt.Sprintf("%d/%s", number, network)
	switch {
	case free:
		return ok("%s is free", what)
	case h.pid != 0 && h.pid == daemonPID:
		return ok("%s is held by shoal's daemon", what)
	case h.pid != 0:
		return fail(fmt.Sprintf("stop it (kill %d), or give shoal another port: shoal start --help", h.pid), "%s is held by %s (pid %d)", what, h.name, h.pid)
	}
	return fail("ss -lnp | grep :"+fmt.Sprint(number), "%s is taken", what)
}

// unreachable is what a peer's port answered.
type unreachable struct {
	peer, address string
	err           error
}

func judgePeers(asked int, failed []unreachable, pathMTU map[string]int, mtu int) Finding {
	if asked == 0 {
		return skip("there is no other peer")
	}
	if len(failed) > 0 {
		var parts []string
		for _, u := range failed {
			parts = append(parts, fmt.Sprintf("%s at %s: %v", u.peer, u.address, u.err))
		}
		return fail("open the port in the firewalls between, or see `shoal doctor` there", "%s", strings.Join(parts, "; "))
	}
	for peer, p := range pathMTU {
		if mtu > 0 && p < mtu {
			return warn(fmt.Sprintf("set the MTU of all links between to %d, or of this host's to %d", mtu, p), "the path to %s carries %d bytes, this host's link %d", peer, p, mtu)
		}
	}
	return ok("%d ports of other peers answer", asked)
}

// size prints bytes as people read them.
func size(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%d MiB", n>>20)
	}
}
