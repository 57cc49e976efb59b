package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

// TestExec: codes, absent commands, floods and containers that do not run.
func TestExec(t *testing.T) {
	h := newHost(t, "exec")
	h.create("box", sleeper)
	h.running("box")
	config, client := h.admin()
	for _, c := range []struct {
		command []string
		code    int
		says    string
	}{
		{[]string{"sh", "-c", "echo out; exit 7"}, 7, "out\n"},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"nosuch"}, 127, `exec: "nosuch": executable file not found in $PATH`},
		{[]string{"/no/such"}, 127, "no such file or directory"},
		{[]string{"/etc/passwd"}, 126, "permission denied"},
	} {
		out, err := h.exec(config, client, "box", nil, c.command...)
		var code utilexec.CodeExitError
		if !errors.As(err, &code) || code.Code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("exec %q: %q, %v, want code %d", c.command, out, err, c.code)
		}
	}
	h.floods(t)
	at := time.Now()
	const rounds = 10
	for range rounds {
		if _, err := h.exec(config, client, "box", nil, "true"); err != nil {
			t.Error(err)
		}
	}
	t.Logf("exec through the API takes %s", time.Since(at)/rounds)
	h.delete("box")
	if _, err := h.exec(config, client, "box", nil, "true"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("exec in a pod that is gone: %v", err)
	}
}

// floods leaves while a command writes without end: it is killed.
func (h *host) floods(t *testing.T) {
	t.Helper()
	config, client := h.admin()
	req := client.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name("box").SubResource("exec").
		VersionedParams(&v1.PodExecOptions{Container: "main", Command: []string{"yes", "flood"}, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(config, "GET", req.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(context.Background())
	out := &screenOnce{seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: out}) }()
	<-out.seen
	leave()
	if err := <-done; err == nil {
		t.Error("a session that was cut has no error")
	}
	h.eventually("the flood to end", func() bool {
		out, err := h.exec(config, client, "box", nil, "sh", "-c", "cat /proc/[0-9]*/comm")
		return err == nil && !strings.Contains(out, "yes")
	})
}

// screenOnce tells of the first thing written and drops all.
type screenOnce struct {
	seen chan struct{}
	told bool
}

// Write implements io.Writer.
func (s *screenOnce) Write(p []byte) (int, error) {
	if !s.told {
		s.told = true
		close(s.seen)
	}
	return len(p), nil
}
