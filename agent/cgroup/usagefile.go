package cgroup

import (
	"bytes"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errNoDevice is what the kernel says of a file of a group that was removed
// after the file was opened.
var errNoDevice error = syscall.ENODEV

// maxUsageFile bounds what is read of one file. The longest, memory.stat and
// io.stat of a host with many devices, have some thousand bytes.
const maxUsageFile = 64 << 10

// readSmall reads a kernel file with three system calls and without the
// runtime's poller, which costs as much again.
func readSmall(file string) ([]byte, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 2048)
	for len(buf) < maxUsageFile {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		}
		if n <= 0 {
			break
		}
		buf = buf[:len(buf)+n]
	}
	return buf, nil
}

// hostMemory is the memory and the swap space in use, in bytes, as
// /proc/meminfo says.
func hostMemory(file string) (used, swap uint64) {
	data, err := readSmall(file)
	if err != nil {
		return 0, 0
	}
	kib := map[string]uint64{}
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		kib[f[0]], _ = strconv.ParseUint(f[1], 10, 64)
	}
	used = kib["MemTotal:"] - min(kib["MemFree:"], kib["MemTotal:"])
	swap = kib["SwapTotal:"] - min(kib["SwapFree:"], kib["SwapTotal:"])
	return used << 10, swap << 10
}

// IO reads what the group has moved to and from block devices.
func (t *Tree) IO(group string) ([]DeviceIO, error) {
	if t.Unified() {
		return t.unifiedIO(group)
	}
	var g reading
	byDevice := map[string]*DeviceIO{}
	var order []string
	read := func(name string, field func(d *DeviceIO, op string) *uint64) {
		for line := range strings.Lines(string(g.bytes(t.file("blkio", group, name)))) {
			f := strings.Fields(line) // "8:0 Read 4096", and a total without device
			if len(f) != 3 {
				continue
			}
			d := byDevice[f[0]]
			if d == nil {
				d = &DeviceIO{Device: f[0]}
				byDevice[f[0]], order = d, append(order, f[0])
			}
			if n := field(d, f[1]); n != nil {
				*n, _ = strconv.ParseUint(f[2], 10, 64)
			}
		}
	}
	// Linux 5.1; before, bytes were counted of the group alone.
	read("blkio.throttle.io_service_bytes_recursive", func(d *DeviceIO, op string) *uint64 {
		return pick(op, &d.ReadBytes, &d.WrittenBytes)
	})
	read("blkio.throttle.io_serviced_recursive", func(d *DeviceIO, op string) *uint64 {
		return pick(op, &d.Reads, &d.Writes)
	})
	out := make([]DeviceIO, 0, len(order))
	for _, device := range order {
		out = append(out, *byDevice[device])
	}
	return out, g.done("block devices", group)
}

func pick(op string, read, write *uint64) *uint64 {
	switch op {
	case "Read":
		return read
	case "Write":
		return write
	}
	return nil
}

func (t *Tree) unifiedIO(group string) ([]DeviceIO, error) {
	var g reading
	var out []DeviceIO
	for line := range strings.Lines(string(g.bytes(filepath.Join(t.unified, group, "io.stat")))) {
		f := strings.Fields(line) // "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0"
		if len(f) < 2 {
			continue
		}
		d := DeviceIO{Device: f[0]}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WrittenBytes = n
			case "rios":
				d.Reads = n
			case "wios":
				d.Writes = n
			}
		}
		out = append(out, d)
	}
	return out, g.done("block devices", group)
}
