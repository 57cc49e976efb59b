package agent

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"shoal/agent/logwriter"
)

// screen is what a client of attach or exec has been shown.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.buf.String(), text)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// terminal is the size of a client's window.
type terminal chan remotecommand.TerminalSize

// Next implements remotecommand.TerminalSizeQueue.
func (t terminal) Next() *remotecommand.TerminalSize {
	size, ok := <-t
	if !ok {
		return nil
	}
	return &size
}

// session is a client attached to a pod.
type session struct {
	in   *io.PipeWriter
	out  *screen
	size terminal
	done chan error
	stop context.CancelFunc
}

// attach begins one, by SPDY or by WebSocket.
func (h *host) attach(pod string, tty, spdy bool) *session {
	h.t.Helper()
	config, client := h.admin()
	req := client.CoreV1().RESTClient().Post().Resource("pods").Namespace("default").Name(pod).SubResource("attach").
		VersionedParams(&v1.PodAttachOptions{Container: "main", Stdin: true, Stdout: true, Stderr: !tty, TTY: tty}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(config, "GET", req.URL().String())
	if spdy {
		executor, err = remotecommand.NewSPDYExecutor(config, "POST", req.URL())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r, w := io.Pipe()
	s := &session{in: w, out: &screen{}, size: make(terminal), done: make(chan error, 1), stop: stop}
	opts := remotecommand.StreamOptions{Stdin: r, Stdout: s.out, Stderr: s.out, Tty: tty}
	if tty {
		opts.Stderr, opts.TerminalSizeQueue = nil, s.size
	}
	go func() { s.done <- executor.StreamWithContext(ctx, opts) }()
	h.t.Cleanup(func() { stop(); close(s.size) })
	return s
}

func (h *host) type1(s *session, text, want string) {
	h.t.Helper()
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(s.in, text)
		written <- err
	}()
	select {
	case err := <-written:
		if err != nil {
			h.t.Fatal(err)
		}
	case err := <-s.done:
		s.done <- err
		select { // what was typed may have ended it
		case err := <-written:
			if err != nil {
				h.t.Fatal(err)
			}
		case <-time.After(limit):
			h.t.Fatalf("the session ended before %q was typed: %v; it showed %q", text, err, s.out)
		}
	}
	h.shows(s, want)
}

func (h *host) shows(s *session, want string) {
	h.t.Helper()
	h.eventually("the client to see "+want, func() bool { return s.out.has(want) })
}

// interactive makes a pod as `kubectl run -i` does, with -t if tty.
func (h *host) interactive(name string, tty, once bool, command ...string) {
	h.t.Helper()
	grace := int64(1)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{
		NodeName: h.name, TerminationGracePeriodSeconds: &grace, RestartPolicy: v1.RestartPolicyNever,
		Containers: []v1.Container{{Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: command, Stdin: true, StdinOnce: once, TTY: tty}},
	}}
	if _, err := peer.Client.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		h.t.Fatal(err)
	}
	h.running(name)
}

// restart starts a new agent, as after the daemon's death, and waits until the
// API knows its port.
func (h *host) restart() {
	h.t.Helper()
	h.stop()
	h.start()
	_, port, _ := net.SplitHostPort(h.agent.o.ListenAddr)
	h.eventually("the node's new port", func() bool {
		return strconv.Itoa(int(h.node(v1.ConditionTrue).Status.DaemonEndpoints.KubeletEndpoint.Port)) == port
	})
}

func (h *host) succeeded(name string) {
	h.t.Helper()
	h.eventually(name+" to succeed", func() bool {
		pod, err := peer.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == v1.PodSucceeded
	})
}

// TestAttach: a shell on a terminal by both protocols, over the agent's
// restart; and a filter that ends with its input.
func TestAttach(t *testing.T) {
	h := newHost(t, "attach")
	h.interactive("shell", true, false, "sh", "-i")
	s := h.attach("shell", true, false)
	h.shows(s, "# ") // written before the client came, and no whole line
	s.size <- remotecommand.TerminalSize{Width: 91, Height: 17}
	h.eventually("the window's size", func() bool {
		_, _ = io.WriteString(s.in, "busybox stty size\n")
		return s.out.has("17 91")
	})
	s.stop()
	if err := <-s.done; err == nil {
		t.Error("a session that was cut has no error")
	}

	h.restart()
	h.running("shell")
	s = h.attach("shell", true, true)
	h.type1(s, "echo $((6*7))\n", "42\r\n")
	h.type1(s, "exit\n", "exit")
	if err := <-s.done; err != nil {
		t.Errorf("attach to the end: %v", err)
	}
	h.succeeded("shell")

	for _, spdy := range []bool{false, true} {
		h.interactive("filter", false, true, "sh", "-c", "cat; echo end; echo err >&2")
		s = h.attach("filter", false, spdy)
		h.type1(s, "text", "text")
		s.in.Close()
		if err := <-s.done; err != nil || !s.out.has("end\n") || !s.out.has("err\n") {
			t.Errorf("attach with input to its end: %v, %q", err, s.out)
		}
		h.succeeded("filter")
		h.delete("filter")
	}
	h.delete("shell")

	// One that ends just as a client comes has no console any more.
	h.interactive("gone", true, false, "sh", "-c", sleeper)
	ref, _ := h.agent.runner.Container(h.running("gone").UID, "main")
	if err := logwriter.StopConsole(ref.Console); err != nil {
		t.Fatal(err)
	}
	s = h.attach("gone", true, true)
	const want = `container "main" in pod "gone" is not running: it has ended`
	if err := <-s.done; err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "Internal") {
		t.Errorf("attach without a console: %v, want %s", err, want)
	}
	h.delete("gone")
}

// TestAttachAfterLogs: kubectl shows the log before it attaches; what it has shown
// does not come again, and a prompt does.
func TestAttachAfterLogs(t *testing.T) {
	h := newHost(t, "again")
	h.interactive("greets", false, false, "sh", "-c", "echo hello; printf 'name: '; read name; echo end")
	h.eventually("the log", func() bool {
		return h.request("GET", "/containerLogs/default/greets/main", nil, 200) == "hello\n"
	})
	s := h.attach("greets", false, false)
	h.shows(s, "name: ")
	h.type1(s, "x\n", "end\n")
	if err := <-s.done; err != nil || strings.Contains(s.out.String(), "hello") {
		t.Errorf("attach: %v, %q", err, s.out)
	}
	h.succeeded("greets")
	h.delete("greets")

	// One that has ended by then: the rest is shown, and nothing twice.
	h.interactive("ends", false, false, "sh", "-c", "echo hello; read word; echo end")
	h.eventually("the log", func() bool {
		return h.request("GET", "/containerLogs/default/ends/main", nil, 200) == "hello\n"
	})
	ref, _ := h.agent.runner.Container(h.running("ends").UID, "main")
	last := h.attach("ends", false, false)
	h.type1(last, "x\n", "end\n")
	<-last.done //nolint:errcheck // how it ended is told by the pod
	h.succeeded("ends")
	h.agent.readers.Add(ref.ID, time.Now().Add(-time.Hour), readFresh) // reads of long ago saw nothing
	late := h.attach("ends", false, false)
	if err := <-late.done; err != nil || late.out.String() != "hello\nend\n" {
		t.Errorf("attach after the end: %v, %q", err, late.out)
	}
	h.request("GET", "/containerLogs/default/ends/main", nil, 200)
	late = h.attach("ends", false, false)
	if err := <-late.done; err != nil || late.out.String() != "" {
		t.Errorf("attach after the end and the log: %v, %q", err, late.out)
	}
	h.agent.readers.Remove(ref.ID)
	late = h.attach("ends", false, false)
	if err := <-late.done; err == nil {
		t.Errorf("attach after the end, of who has not read the log: %q", late.out)
	}
	h.delete("ends")
}

// TestAttachInputEndsWithoutDaemon: the one client with input is cut off as the
// agent stops; the next agent ends the container's input.
func TestAttachInputEndsWithoutDaemon(t *testing.T) {
	h := newHost(t, "cut")
	h.interactive("filter", false, true, "cat")
	s := h.attach("filter", false, false)
	h.type1(s, "text", "text")
	h.restart()
	h.succeeded("filter")
	h.delete("filter")
}
