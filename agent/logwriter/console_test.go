//go:build linux && cgo

package logwriter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/test/eventually"
)

// container is the shim's side of a console.
type container struct {
	t   *testing.T
	c   Console
	in  *os.File
	out *os.File
	err *os.File
}

func startConsole(t *testing.T, c Console) *container {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c.Dir, c.Log, c.Limits = filepath.Join(dir, "io"), filepath.Join(dir, "0.log"), DefaultLimits
	cmd, err := StartConsole(self, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b := &container{t: t, c: c}
	in, out, errs := c.Pipes()
	open := func(path string, mode int) *os.File {
		if path == "" {
			return nil
		}
		f, err := os.OpenFile(path, mode, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	b.in, b.out, b.err = open(in, os.O_RDONLY), open(out, os.O_WRONLY), open(errs, os.O_WRONLY)
	return b
}

// shown is what a client has got so far.
type shown struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (s *shown) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *shown) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// Len is how many bytes there are.
func (s *shown) Len() int { return len(s.String()) }

// end closes the container's side.
func (b *container) end() {
	for _, f := range []*os.File{b.in, b.out, b.err} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// attach begins a client; what it gave back comes by the channel.
func (b *container) attach(c Client) <-chan error {
	done := make(chan error, 1)
	go func() { done <- Attach(context.Background(), b.c.Dir, c) }()
	return done
}

func (b *container) wait(done <-chan error) {
	b.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			b.t.Errorf("attach: %v", err)
		}
	case <-time.After(2 * time.Minute):
		b.t.Fatal("the client does not end")
	}
}

// TestConsole: a client gets what was written before it came and partial
// lines at once; its input arrives, and its end when it is the only input.
func TestConsole(t *testing.T) {
	b := startConsole(t, Console{Input: true, InputOnce: true})
	fmt.Fprint(b.out, "before ")
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	var errs bytes.Buffer
	ended := make(chan struct{})
	done := b.attach(Client{In: inR, Out: outW, Err: &errs, InEnds: true, InEnded: func() { close(ended) }})
	read := func(f io.Reader, want string) {
		t.Helper()
		buf := make([]byte, len(want))
		if _, err := io.ReadFull(f, buf); err != nil || string(buf) != want {
			t.Errorf("read %q, %v, want %q", buf, err, want)
		}
	}
	read(outR, "before ")
	fmt.Fprint(b.out, "prompt> ")
	read(outR, "prompt> ")
	fmt.Fprint(inW, "hello\n")
	read(b.in, "hello\n")
	inW.Close()
	<-ended
	if n, err := b.in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end of input: %d, %v", n, err)
	}
	if closed, err := InputClosed(b.c.Dir); err != nil || !closed {
		t.Errorf("state: %v, %v", closed, err)
	}
	go func() { fmt.Fprint(b.err, "late\n"); fmt.Fprint(b.out, "bye\n"); b.end() }()
	read(outR, "bye\n")
	b.wait(done)
	if errs.String() != "late\n" {
		t.Errorf("errors: %q", errs.String())
	}
	if got := lines(t, b.c.Log); len(got) != 2 || got[0][2]+got[1][2] != "before prompt> bye"+"late" && got[0][2]+got[1][2] != "late"+"before prompt> bye" {
		t.Errorf("log: %q", got)
	}
}

// TestConsoleClientsComeAndGo: input without InputOnce stays open when a
// client leaves.
func TestConsoleClientsComeAndGo(t *testing.T) {
	b := startConsole(t, Console{Input: true})
	for i := range 3 {
		text := fmt.Sprintf("client %d", i)
		b.wait(b.attach(Client{In: strings.NewReader(text)}))
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(b.in, buf); err != nil || string(buf) != text {
			t.Errorf("input %q, %v", buf, err)
		}
	}
}

// TestConsoleSlowClient: one that reads late loses nothing.
func TestConsoleSlowClient(t *testing.T) {
	b := startConsole(t, Console{})
	outR, outW := io.Pipe()
	done := b.attach(Client{Out: outW})
	fmt.Fprintln(b.out, "start")
	first := make([]byte, 6)
	if _, err := io.ReadFull(outR, first); err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	go func() {
		block := []byte(strings.Repeat("x", 1023) + "\n")
		for range size / len(block) {
			_, _ = b.out.Write(block)
		}
		b.end()
	}()
	time.Sleep(50 * time.Millisecond) // the client is slow
	n, closed := int64(0), make(chan struct{})
	go func() { n, _ = io.Copy(io.Discard, outR); close(closed) }()
	b.wait(done)
	outW.Close()
	<-closed
	if n != size {
		t.Errorf("a slow client got %d bytes of %d", n, size)
	}
}

// TestConsoleBacklog keeps the newest output for the first client, and with
// nobody attached the container is never held up.
func TestConsoleBacklog(t *testing.T) {
	b := startConsole(t, Console{TTY: true})
	for i := range 100_000 {
		fmt.Fprintf(b.out, "line %d\r\n", i)
	}
	var out shown
	done := b.attach(Client{Out: &out})
	eventually.True(t, "the client to be shown something", func() bool { return out.Len() > 0 })
	b.end()
	b.wait(done)
	if out.Len() > 256<<10 || !strings.HasSuffix(out.String(), "line 99999\r\n") {
		t.Errorf("backlog: %d bytes, ends with %q", out.Len(), out.String()[max(0, out.Len()-20):])
	}
	if got := lines(t, b.c.Log); len(got) != 100_000 {
		t.Errorf("log has %d lines", len(got))
	}
}

// TestConsoleLogIsRead: who has read the log is shown only what it did not have.
func TestConsoleLogIsRead(t *testing.T) {
	b := startConsole(t, Console{Input: true})
	fmt.Fprint(b.out, "read\nprompt ")
	eventually.True(t, "a line in the log", func() bool {
		text, err := os.ReadFile(b.c.Log)
		return err == nil && len(text) > 0
	})
	if err := LogIsRead(b.c.Dir); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(b.out, "> ")
	var out shown
	done := b.attach(Client{Out: &out})
	eventually.True(t, "the client to be shown the prompt", func() bool { return strings.HasSuffix(out.String(), "> ") })
	fmt.Fprint(b.out, "later\n")
	b.end()
	b.wait(done)
	if got := out.String(); got != "prompt > later\n" {
		t.Errorf("the client was shown %q", got)
	}
	if err := LogIsRead(b.c.Dir); !errors.Is(err, ErrNoConsole) {
		t.Errorf("word to a console that has ended: %v", err)
	}
}

func TestStopConsole(t *testing.T) {
	b := startConsole(t, Console{Input: true})
	fmt.Fprint(b.out, "last")
	if err := StopConsole(b.c.Dir); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, b.c.Log); len(got) != 1 || got[0][2] != "last" {
		t.Errorf("log: %q", got)
	}
	if err := StopConsole(b.c.Dir); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
	if HasConsole(b.c.Dir) {
		t.Error("a console that ended is there")
	}
	if err := Attach(t.Context(), b.c.Dir, Client{}); !errors.Is(err, ErrNoConsole) {
		t.Errorf("attach to none: %v", err)
	}
}
