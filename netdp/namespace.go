package netdp

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"shoal/netdp/netns"
)

// namespace is a network namespace in which work can be done. The zero value
// is the calling thread's.
type namespace struct {
	file *os.File
}

func openNamespace(path string) (namespace, error) {
	if path == "" {
		// By name, since work for the host is also asked for from threads that
		// are inside a pod's namespace.
		path = "/proc/self/ns/net"
	}
	f, err := os.Open(path)
	if err != nil {
		return namespace{}, fmt.Errorf("open network namespace: %w", err)
	}
	return namespace{file: f}, nil
}

func (n namespace) close() {
	if n.file != nil {
		_ = n.file.Close()
	}
}

// do runs f on a thread that is inside the namespace. The thread ends with f,
// so no other goroutine can find itself in the wrong place.
func (n namespace) do(f func() error) error {
	if n.file == nil {
		return f()
	}
	return netns.OnOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.file.Name(), err)
		}
		return f()
	})
}

// cookie is the number the kernel's programs know the namespace by.
func (n namespace) cookie() (uint64, error) {
	var cookie uint64
	err := n.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read network namespace cookie (Linux 5.14 or later): %w", err)
	}
	return cookie, nil
}
