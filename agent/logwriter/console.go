package logwriter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// consoleArg is the first argument by which a process knows that it is a
// console; flags and the log follow.
const consoleArg = "shoal-console"

// consoleReady bounds the start of a console, which takes a few milliseconds.
const consoleReady = 10 * time.Second

// Console says what a container's console is.
type Console struct {
	Dir         string // its own; made by StartConsole
	Log         string // path of the log file, whose directory exists
	Limits      Limits
	TTY         bool
	Input       bool
	InputOnce   bool // the input ends when the first client with input has left
	InputClosed bool // it ended already: the console is started again
}

// The named pipes a console shares with the shim.
func (c Console) in() string  { return filepath.Join(c.Dir, "in") }
func (c Console) out() string { return filepath.Join(c.Dir, "out") }
func (c Console) err() string { return filepath.Join(c.Dir, "err") }

// Pipes are the paths of the container's standard streams, empty for one it
// does not have.
func (c Console) Pipes() (in, out, err string) {
	if c.Input {
		in = c.in()
	}
	if !c.TTY {
		err = c.err()
	}
	return in, c.out(), err
}

// StartConsole starts a console of the binary, which must link this package,
// and returns when clients can connect. It lives on when this process ends,
// until the container's output has ended or StopConsole. The caller waits for
// the process.
func StartConsole(binary string, c Console) (*exec.Cmd, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start console: %w", err)
	}
	for _, pipe := range []string{c.in(), c.out(), c.err()} {
		if err := unix.Mkfifo(pipe, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("start console: make pipe %s: %w", pipe, err)
		}
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start console: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(binary, consoleArg, c.flags(), target(c.Log, c.Limits))
	cmd.Dir, cmd.Env, cmd.ExtraFiles = c.Dir, []string{}, []*os.File{theirs}
	// A session of its own: signals to the daemon's are not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("start console: %w", err)
	}
	_ = ready.SetReadDeadline(time.Now().Add(consoleReady))
	_, _ = ready.Read(make([]byte, 1)) // its end is all there is to read
	conn, err := dial(c.Dir)
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("start console: it does not answer: %w (%w)", err, cmd.Wait())
	}
	return cmd, conn.Close()
}

func (c Console) flags() string {
	flags := "-"
	for flag, set := range map[string]bool{"t": c.TTY, "i": c.Input, "o": c.InputOnce && !c.TTY, "c": c.InputClosed} {
		if set {
			flags += flag
		}
	}
	return flags
}
