package lab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"shoal/cmd/shoal/lab"
)

// This test's program, started on a host of the lab with taskEnv set, does one
// small thing with the network there and prints what came of it.
const (
	taskEnv  = "SHOAL_LAB_TASK"
	probes   = 5
	probeMax = 2 * time.Second
	// heard is where the listen task listens.
	heard = ":5999"
)

// runTask runs one task: "dial ADDR" prints the quickest of some TCP handshakes,
// "listen" prints each datagram it gets, "send ADDR TEXT" sends one.
func runTask(task string) int {
	words := strings.Fields(task)
	var err error
	switch words[0] {
	case "dial":
		var rtt time.Duration
		if rtt, err = handshake(words[1]); err == nil {
			fmt.Println(rtt)
		}
	case "listen":
		err = listen()
	case "send":
		err = send(words[1], words[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func handshake(addr string) (best time.Duration, err error) {
	for range probes {
		begin := time.Now()
		conn, err := net.DialTimeout("tcp", addr, probeMax)
		if err != nil {
			return 0, err
		}
		took := time.Since(begin)
		_ = conn.Close()
		if best == 0 || took < best {
			best = took
		}
	}
	return best, nil
}

func listen() error {
	conn, err := net.ListenPacket("udp", heard)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	buffer := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		fmt.Println(string(buffer[:n]))
	}
}

func send(addr, text string) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(text))
	return err
}

// on starts a task on a peer's host.
func on(t *testing.T, l *lab.Lab, n int, task string, prepare func(*exec.Cmd)) (*exec.Cmd, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return l.Exec(t.Context(), n, []string{self}, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, taskEnv+"="+task)
		prepare(cmd)
	})
}

// reach dials the API of one peer from another and returns how long the
// quickest handshake took.
func reach(t *testing.T, l *lab.Lab, from, to int) (time.Duration, error) {
	t.Helper()
	addr, err := l.Address(to)
	if err != nil {
		t.Fatal(err)
	}
	var out, problem strings.Builder
	cmd, err := on(t, l, from, fmt.Sprintf("dial %s:6443", addr), func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = &out, &problem })
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%d does not reach %d: %w: %s", from, to, err, problem.String())
	}
	took, err := time.ParseDuration(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	return took, nil
}

// reachFromHere is reach from the machine.
func reachFromHere(t *testing.T, l *lab.Lab, to int) (time.Duration, error) {
	t.Helper()
	addr, err := l.Address(to)
	if err != nil {
		t.Fatal(err)
	}
	return handshake(fmt.Sprintf("%s:6443", addr))
}
