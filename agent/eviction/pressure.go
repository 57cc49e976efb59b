package eviction

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pressureTrigger asks to be told when tasks together wait 100 ms in 2 s for
// memory. A window of 2 s is what a daemon without CAP_SYS_RESOURCE may ask for
// (Linux 6.4; Documentation/accounting/psi.rst).
const pressureTrigger = "some 100000 2000000"

// pressure hears from the kernel when memory gets tight. Without it, the
// monitor's own look every few seconds must do.
type pressure struct {
	file *os.File // of an epoll set with the trigger in it; nil when the kernel has none
	psi  int
}

// openPressure never fails: a kernel without pressure stall information has
// nothing to tell.
func openPressure() *pressure {
	psi, err := unix.Open("/proc/pressure/memory", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &pressure{}
	}
	set, err := trigger(psi)
	if err != nil {
		_ = unix.Close(psi)
		return &pressure{}
	}
	return &pressure{file: os.NewFile(uintptr(set), "memory pressure"), psi: psi}
}

// trigger sets one up. It is announced as urgent data, which Go's own poller
// does not wait for: an epoll set that does is in turn readable for it.
func trigger(psi int) (set int, err error) {
	if _, err := unix.Write(psi, append([]byte(pressureTrigger), 0)); err != nil {
		return -1, err
	}
	if set, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return -1, err
	}
	if err = unix.EpollCtl(set, unix.EPOLL_CTL_ADD, psi, &unix.EpollEvent{Events: unix.EPOLLPRI, Fd: int32(psi)}); err == nil {
		err = unix.SetNonblock(set, true)
	}
	if err != nil {
		_ = unix.Close(set)
		return -1, err
	}
	return set, nil
}

// follow calls tell for each trigger until ctx ends.
func (p *pressure) follow(ctx context.Context, tell func()) {
	if p.file == nil {
		return
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for ctx.Err() == nil {
		err := raw.Read(func(fd uintptr) bool {
			var events [1]unix.EpollEvent
			n, err := unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || (err != nil && err != unix.EINTR)
		})
		if err != nil {
			return
		}
		tell()
	}
}

func (p *pressure) close() {
	if p.file != nil {
		_ = p.file.Close()
		_ = unix.Close(p.psi)
	}
}
