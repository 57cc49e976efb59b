package logwriter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of packets between a console and its clients, the first byte of each.
// Keep equal to those in console_linux.c.
const (
	fromStdout = 'o'
	fromStderr = 'e'
	hello      = 'h'
	input      = 'i'
	inputEnd   = 'c'
	askState   = 's'
	logRead    = 'r'
	quit       = 'q'
)

// ErrNoConsole is returned where a container's console is not there any more.
var ErrNoConsole = errors.New("the container's console is gone")

// HasConsole reports whether there is a console in dir to attach to: it goes
// with its container.
func HasConsole(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "sock"))
	return err == nil
}

// dial connects to the console of a directory. Paths of sockets are limited
// to 107 bytes, so it goes by a descriptor of the directory.
func dial(dir string) (*net.UnixConn, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoConsole, err)
	}
	defer unix.Close(fd)
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/sock", fd), Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoConsole, err)
	}
	return conn, nil
}

// Client is what one attached client reads and writes; each may be nil.
type Client struct {
	In       io.Reader
	Out, Err io.Writer
	// InEnds says that the end of In is the end of the container's input.
	// Otherwise it is the client's leaving, as with the kubelet.
	InEnds bool
	// InEnded is called after the container was told of its input's end.
	InEnded func()
}

// Attach joins a client to a console until the container's output ends, the
// client leaves or ctx ends; only the last is an error. The first client of a
// console gets what was written before it came, at most 64 KiB, and not what
// LogIsRead was called for.
func Attach(ctx context.Context, dir string, c Client) error {
	conn, err := dial(dir)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	begin := []byte{hello}
	if c.In != nil {
		begin = append(begin, input)
	}
	if _, err := conn.Write(begin); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if c.In != nil {
		// It is not waited for: it ends with the client's connection, which the
		// caller closes when this returns.
		go sendInput(conn, c)
	}
	err = receive(conn, c)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func sendInput(conn *net.UnixConn, c Client) {
	buf := make([]byte, 1+MaxLineBytes)
	buf[0] = input
	for {
		n, err := c.In.Read(buf[1:])
		if n > 0 {
			if _, err := conn.Write(buf[:1+n]); err != nil {
				return
			}
		}
		if err == nil {
			continue
		}
		if !c.InEnds {
			_ = conn.Close()
			return
		}
		if _, err := conn.Write([]byte{inputEnd}); err == nil && c.InEnded != nil {
			c.InEnded()
		}
		return
	}
}

// receive hands the console's packets to the client.
func receive(conn *net.UnixConn, c Client) error {
	buf := make([]byte, 1+MaxLineBytes)
	for {
		n, err := conn.Read(buf)
		if n == 0 || err != nil {
			// The end, and a connection closed here or there, are the same.
			return nil
		}
		to := c.Out
		if buf[0] == fromStderr {
			to = c.Err
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(buf[1:n]); err != nil {
			return nil // the client left
		}
	}
}

// stateTimeout bounds questions to a console.
const stateTimeout = 5 * time.Second

// InputClosed asks a console whether the container's input has ended.
func InputClosed(dir string) (bool, error) {
	conn, err := dial(dir)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(stateTimeout))
	if _, err := conn.Write([]byte{askState}); err != nil {
		return false, fmt.Errorf("ask console: %w", err)
	}
	answer := make([]byte, 2)
	if n, err := conn.Read(answer); err != nil || n != 2 {
		return false, fmt.Errorf("ask console: short answer: %w", err)
	}
	return answer[1] == inputEnd, nil
}

// readTimeout bounds word of a reader: a console that an earlier version started
// does not answer, and the log is to be read all the same.
const readTimeout = time.Second

// LogIsRead tells a console that somebody reads the whole log now. Its first
// client is then given only what the log did not have yet: kubectl 1.37 shows the
// log before it attaches, and would show the same lines twice.
func LogIsRead(dir string) error {
	conn, err := dial(dir)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(readTimeout))
	if _, err := conn.Write([]byte{logRead}); err != nil {
		return fmt.Errorf("tell console of a reader: %w", err)
	}
	for buf := make([]byte, 1+MaxLineBytes); ; {
		n, err := conn.Read(buf)
		switch {
		case err != nil:
			return fmt.Errorf("tell console of a reader: %w", err)
		case n == 0:
			return ErrNoConsole
		case buf[0] == logRead:
			return nil
		}
	}
}

// StopConsole ends the console of a directory, if there is one, waits for its
// end and removes the directory.
func StopConsole(dir string) error {
	conn, err := dial(dir)
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * stateTimeout))
		if _, err := conn.Write([]byte{quit}); err == nil {
			_, err = io.Copy(io.Discard, packets{conn})
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("stop console in %s: %w", dir, err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove console: %w", err)
	}
	return nil
}

// packets reads a connection whose end is an empty packet.
type packets struct{ *net.UnixConn }

// Read implements io.Reader.
func (p packets) Read(b []byte) (int, error) {
	n, err := p.UnixConn.Read(b)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}
