package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Result is what a finished command left.
type Result struct {
	Stdout, Stderr string
	// Code is the exit status, or -1 when a signal ended the command or it
	// could not be started.
	Code int
	Err  error
}

// Command is a command line with what else it needs.
type Command struct {
	Argv  []string
	Env   []string
	Stdin io.Reader
	// User runs it as this user and group id when it is not zero.
	User uint32
}

// commandWithin bounds every command, so that one that hangs fails its test and
// not the whole run.
const commandWithin = 3 * time.Minute

// Run runs the command to its end.
func (c Command) Run(ctx context.Context) Result {
	ctx, cancel := context.WithTimeoutCause(ctx, commandWithin, errors.New("the command did not end in time"))
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, &stdout, &stderr
	if c.User != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.User, Gid: c.User}}
	}
	err := cmd.Run()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String(), Err: err}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		result.Code = exit.ExitCode()
	case err != nil:
		result.Code = -1
	}
	if err != nil {
		result.Err = fmt.Errorf("%s: %w\n%s%s", strings.Join(c.Argv, " "), err, result.Stdout, result.Stderr)
	}
	return result
}

// Root returns the top of the source tree.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "shoal")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("find the source tree: run this from within it")
}

// Binary returns the path of a program that `make` built, such as bin/shoal or
// .cache/bin/kubectl.
func Binary(path string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path = filepath.Join(root, path)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find %s: %w; run `make build tools` first", filepath.Base(path), err)
	}
	return path, nil
}

// Alive tells whether a process of that id exists and is not a zombie.
func Alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the parenthesised name, which may itself hold spaces.
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func kill(pid string) {
	if id, err := strconv.Atoi(pid); err == nil && id > 1 {
		_ = syscall.Kill(id, syscall.SIGKILL)
	}
}
