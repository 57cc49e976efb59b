package userns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/pkg/sys"
	"golang.org/x/sys/unix"
)

// mapping is the range at first in the form of newuidmap(1).
func mapping(first uint32) string { return fmt.Sprintf("0:%d:%d", first, Length) }

// Namespaces are new and live as long as they are held open, mounted or used.
type Namespaces struct{ files map[string]*os.File }

// flags has the kinds that a user namespace can own here, as /proc names them.
var flags = map[string]uintptr{
	"ipc": unix.CLONE_NEWIPC,
	"net": unix.CLONE_NEWNET,
	"uts": unix.CLONE_NEWUTS,
}

// A process that only just holds the namespaces dies with the thread that made
// it, and Go may end that thread.
const attempts = 8

// Make makes a user namespace with the range at first, and in it a namespace of
// each of the kinds "ipc", "net" and "uts" that are named. The caller closes them.
func Make(first uint32, kinds ...string) (*Namespaces, error) {
	var set uintptr
	for _, kind := range kinds {
		flag, ok := flags[kind]
		if !ok {
			return nil, fmt.Errorf("make user namespace: it owns none of the kind %q", kind)
		}
		set |= flag
	}
	all := append([]string{"user"}, kinds...)
	var err error
	for range attempts {
		n := &Namespaces{files: map[string]*os.File{}}
		m := mapping(first)
		err = sys.UnshareAfterEnterUserns(m, m, set, func(pid int) error { return n.open(pid, all) })
		if err == nil {
			return n, nil
		}
		n.Close()
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			break
		}
	}
	return nil, fmt.Errorf("make user namespace: %w", err)
}

func (n *Namespaces) open(pid int, kinds []string) error {
	for _, kind := range kinds {
		f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", kind))
		if err != nil {
			return err
		}
		n.files[kind] = f
	}
	return nil
}

// Path is where a namespace of the kind made, or of the kind "user", can be
// opened and bind mounted from until Close.
func (n *Namespaces) Path(kind string) string {
	return filepath.Join("/proc/self/fd", strconv.FormatUint(uint64(n.files[kind].Fd()), 10))
}

// Close lets go of them.
func (n *Namespaces) Close() {
	for _, f := range n.files {
		_ = f.Close()
	}
}
