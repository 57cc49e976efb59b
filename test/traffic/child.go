package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// childEnv has the paths of a child process.
const childEnv = "SHOAL_TEST_TRAFFIC"

// Child is traffic of another process: of another control group or namespace.
type Child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// StartChild runs the command, whose program calls RunChild, and returns when all
// its connections are open.
func StartChild(cmd *exec.Cmd, paths []Path) (*Child, error) {
	data, err := json.Marshal(paths)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(os.Environ(), childEnv+"="+string(data))
	cmd.Stderr = os.Stderr
	stdin, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return nil, fmt.Errorf("start traffic: %w", err)
	}
	c := &Child{cmd: cmd, stdin: stdin, out: bufio.NewReader(out)}
	if line, err := c.out.ReadString('\n'); err != nil || line != "open\n" {
		c.Kill()
		return nil, fmt.Errorf("start traffic: it says %q, %w", line, errors.Join(err, errors.New("not that its connections are open")))
	}
	return c, nil
}

// Stop ends the traffic and reports it.
func (c *Child) Stop() (reports []Report, err error) {
	defer func() { err = errors.Join(err, c.cmd.Wait()) }()
	if err := c.stdin.Close(); err != nil {
		return nil, err
	}
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read report of traffic: %w", err)
	}
	return reports, json.Unmarshal(line, &reports)
}

// Kill ends the process without a report. It may have ended.
func (c *Child) Kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// RunChild is what the child process does; false: this is none.
func RunChild() (bool, error) {
	data := os.Getenv(childEnv)
	if data == "" {
		return false, nil
	}
	var paths []Path
	if err := json.Unmarshal([]byte(data), &paths); err != nil {
		return true, err
	}
	load, err := Start(context.Background(), paths)
	if err != nil {
		return true, err
	}
	fmt.Println("open")
	_, err = io.Copy(io.Discard, os.Stdin)
	return true, errors.Join(err, json.NewEncoder(os.Stdout).Encode(load.Stop()))
}
