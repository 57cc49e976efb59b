package netdp

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inARow is how many times one way is measured before the next one has its turn:
// many enough that a way is not charged for what the one before left in the
// processor's caches, few enough that other work on the machine meets all alike.
const inARow = 100

// onOneProcessor keeps all threads of this process on the first one, until the
// benchmark ends: whether an answer wakes somebody on another processor decides
// more than a datapath does, and differs from one server's thread to the next.
func onOneProcessor(b *testing.B) {
	b.Helper()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		b.Fatal(err)
	}
	for cpu := range 64 * len(before) {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	setAffinity(b, &one)
	b.Cleanup(func() { setAffinity(b, &before) })
}

// setAffinity is for all threads; those made later have it from their makers.
func setAffinity(b *testing.B, cpus *unix.CPUSet) {
	b.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.SchedSetaffinity(tid, cpus); err != nil && err != unix.ESRCH {
			b.Fatal(err)
		}
	}
}

// p50 sorts its values.
func p50[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// timed appends how long f took.
func timed(b *testing.B, times []time.Duration, f func() error) []time.Duration {
	start := time.Now()
	err := f()
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	return append(times, took)
}

// blocking takes a connection out of the runtime's poller, whose wake-ups would be
// most of what is measured, and gives its reads and writes a time limit.
func blocking(c net.Conn) (fd int, err error) {
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	var dupErr error
	if err := raw.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, dupErr
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return -1, err
	}
	return fd, errors.Join(limitRead(fd), limitSend(fd))
}

// limitRead ends calls that wait for a peer; accepted sockets inherit it.
func limitRead(fd int) error {
	limit := unix.NsecToTimeval(int64(ioTimeout))
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
}

// limitSend ends calls whose peer takes nothing.
func limitSend(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ioTimeout.Milliseconds()))
}

// roundTrip sends buf and waits for an answer.
func roundTrip(fd int, buf []byte) error {
	if _, err := unix.Write(fd, buf); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	n, err := read(fd, buf)
	if err == nil && n == 0 {
		err = unix.ECONNRESET
	}
	if err != nil {
		return fmt.Errorf("wait for the answer: %w", err)
	}
	return nil
}

// read is read(2), begun again after a signal: one with a time limit is not by
// itself.
func read(fd int, buf []byte) (int, error) {
	for {
		if n, err := unix.Read(fd, buf); err != unix.EINTR {
			return n, err
		}
	}
}

// listenRaw binds a socket in ns; the end of the test wakes those who wait at it.
func (l *lab) listenRaw(ns namespace, kind, port int) (fd int) {
	l.t.Helper()
	l.must(ns.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil || kind != unix.SOCK_STREAM {
			return err
		}
		return unix.Listen(fd, 1024)
	}))
	return fd
}

// accept hands each connection to serve, in as many goroutines as given.
func (l *lab) accept(ns namespace, port, goroutines int, serve func(fd int)) {
	l.t.Helper()
	fd := l.listenRaw(ns, unix.SOCK_STREAM, port)
	l.must(limitRead(fd))
	ended := make(chan struct{})
	for range goroutines {
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err == unix.ECONNABORTED || err == unix.EINTR || err == unix.EAGAIN {
					continue
				}
				if err != nil {
					return
				}
				serve(c)
				_ = unix.Close(c)
			}
		}()
	}
	l.t.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // wakes them
		for range goroutines {
			<-ended
		}
		_ = unix.Close(fd)
	})
}

// acceptAndClose serves as little as can be.
func (l *lab) acceptAndClose(ns namespace, port int) {
	l.t.Helper()
	l.accept(ns, port, 1, func(int) {})
}

// answerRequests answers one request on each connection.
func (l *lab) answerRequests(ns namespace, port, goroutines int) {
	l.t.Helper()
	l.accept(ns, port, goroutines, func(fd int) {
		buf := make([]byte, requestBytes)
		if n, err := read(fd, buf); err == nil && n > 0 {
			_, _ = unix.Write(fd, buf[:n])
		}
	})
}

// answerDatagrams sends each datagram back.
func (l *lab) answerDatagrams(ns namespace, port int) {
	l.t.Helper()
	fd := l.listenRaw(ns, unix.SOCK_DGRAM, port)
	stop, ended := make(chan struct{}), make(chan struct{})
	look := unix.NsecToTimeval(int64(100 * time.Millisecond)) // at stop; shutdown wakes no unconnected socket
	l.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &look))
	go func() {
		defer close(ended)
		buf := make([]byte, requestBytes)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			select {
			case <-stop:
				return
			default:
			}
			if err == nil {
				_ = unix.Sendto(fd, buf[:n], 0, from)
			}
		}
	}()
	l.t.Cleanup(func() {
		close(stop)
		<-ended
		_ = unix.Close(fd)
	})
}

// sockets makes sockets in ns.
func (l *lab) sockets(ns namespace, kind, n int) []int {
	l.t.Helper()
	fds := make([]int, n)
	l.must(ns.do(func() (err error) {
		for i := range fds {
			if fds[i], err = shortSocket(kind); err != nil {
				return err
			}
		}
		return nil
	}))
	return fds
}

// shortSocket is one for a short while: it gives up after ioTimeout, and a TCP
// socket leaves no TIME_WAIT behind.
func shortSocket(kind int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return fd, err
	}
	if err := limitRead(fd); err != nil || kind != unix.SOCK_STREAM {
		return fd, err
	}
	// Not SO_SNDTIMEO: a connect with one is not begun again after a signal.
	if err := limitSend(fd); err != nil {
		return fd, err
	}
	return fd, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
