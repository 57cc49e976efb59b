//go:build linux

package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// A daemon in the background is this program again, with the same arguments, in
// a session of its own. File descriptor 3 is a pipe to the command that started
// it: the daemon closes it after writing readyByte.
const (
	backgroundEnv = "SHOAL_BACKGROUND"
	readyFD       = 3
	readyByte     = 'R'
	// maxFailure bounds how much of a failed start's output is shown.
	maxFailure = 64 << 10
)

// InBackground reports whether this process was started by Detach.
func InBackground() bool { return os.Getenv(backgroundEnv) != "" }

// SignalReady tells the command that started this daemon that it answers.
func SignalReady() {
	if !InBackground() {
		return
	}
	pipe := os.NewFile(readyFD, "ready")
	_, _ = pipe.Write([]byte{readyByte})
	_ = pipe.Close()
}

// Detach starts this program again in the background and returns once it is
// ready, copying its progress to out. Everything it says goes to
// dataDir/shoal.log.
func Detach(dataDir string, out io.Writer) error {
	if err := checkRoot(); err != nil {
		return err
	}
	dataDir = orDefault(dataDir, DefaultDataDir)
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	logPath := filepath.Join(dataDir, "shoal.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	defer func() { _ = log.Close() }()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = read.Close() }()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	// Where this command was called is where relative paths in its arguments
	// are meant; the daemon leaves it when it has read them.
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), backgroundEnv+"=1")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = write.Close()
		return fmt.Errorf("start daemon: %w", err)
	}
	_ = write.Close()
	b, err := bufio.NewReader(read).ReadByte()
	said := io.LimitReader(io.NewSectionReader(log, begin, 1<<62), maxFailure)
	if err == nil && b == readyByte {
		_, _ = io.Copy(out, said)
		_, _ = fmt.Fprintf(out, "pid %d, log %s; stop it with `shoal stop`\n", cmd.Process.Pid, logPath)
		return cmd.Process.Release()
	}
	_ = cmd.Wait()
	text, _ := io.ReadAll(said)
	return errors.New("the daemon did not start: " + strings.TrimPrefix(strings.TrimSpace(string(text)), "error: "))
}
