package stats

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// netInterface is what /proc/PID/net/dev says of one.
type netInterface struct {
	name                                 string
	rxBytes, rxPackets, rxErrors, rxDrop uint64
	txBytes, txPackets, txErrors, txDrop uint64
}

// interfaces are those of the network namespace a process is in, without the
// loopback. pid 0 is this process.
func interfaces(pid int) []netInterface {
	data, err := os.ReadFile(filepath.Join(procDir(pid), "net/dev"))
	if err != nil {
		return nil
	}
	var out []netInterface
	for line := range strings.Lines(string(data)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(f) < 16 || name == "lo" {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
		out = append(out, netInterface{
			name: name, rxBytes: n(0), rxPackets: n(1), rxErrors: n(2), rxDrop: n(3),
			txBytes: n(8), txPackets: n(9), txErrors: n(10), txDrop: n(11),
		})
	}
	return out
}

func procDir(pid int) string {
	if pid == 0 {
		return "/proc/self"
	}
	return "/proc/" + strconv.Itoa(pid)
}

// defaultInterface has the default route, or is "".
func defaultInterface() string {
	f, err := os.Open("/proc/self/net/route")
	if err != nil {
		return ""
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		if f := strings.Fields(scan.Text()); len(f) > 1 && f[1] == "00000000" {
			return f[0]
		}
	}
	return ""
}

// bootTime is when the machine started.
func bootTime() time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano())).Truncate(time.Second)
}

// memoryOfHost is the memory and the swap space of the machine, in bytes.
func memoryOfHost() (total, swap uint64) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0, 0
	}
	return info.Totalram * uint64(info.Unit), info.Totalswap * uint64(info.Unit)
}

// numberIn is the number a file holds, or 0.
func numberIn(file string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
}

// tasksOfHost is how many tasks there are, as /proc/loadavg says.
func tasksOfHost() uint64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data))
	if len(f) < 4 {
		return 0
	}
	_, all, _ := strings.Cut(f[3], "/")
	n, _ := strconv.ParseUint(all, 10, 64)
	return n
}

// fileSystem is what statfs says, in bytes and inodes.
type fileSystem struct{ capacity, available, inodes, inodesFree uint64 }

func statFS(dir string) (fileSystem, bool) {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return fileSystem{}, false
	}
	block := uint64(st.Bsize)
	return fileSystem{st.Blocks * block, st.Bavail * block, st.Files, st.Ffree}, true
}
