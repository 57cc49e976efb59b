package agent

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"shoal/test/eventually"
)

// TestConnectionsAreLimited: one address leaves room for others, all together
// have an end, and a connection that is closed gives its place back.
func TestConnectionsAreLimited(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConnections(plain, 3, 2, slog.New(slog.DiscardHandler))
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	defer func() { _ = l.Close(); <-served }()
	// call reports whether somebody answers.
	call := func(from string) (net.Conn, bool) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.DialContext(t.Context(), "tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write([]byte("x")); err != nil {
			return conn, false
		}
		_, err = io.ReadFull(conn, make([]byte, 1))
		return conn, err == nil
	}
	first, _ := call("127.0.0.2")
	for _, c := range []struct {
		from string
		want bool
	}{{"127.0.0.2", true}, {"127.0.0.2", false}, {"127.0.0.3", true}, {"127.0.0.4", false}} {
		if _, ok := call(c.from); ok != c.want {
			t.Errorf("a connection from %s is served: %t, want %t", c.from, ok, c.want)
		}
	}
	_ = first.Close()
	// The server learns of the end a little later.
	eventually.True(t, "a place that was given back", func() bool { _, ok := call("127.0.0.4"); return ok })
}

// TestAgentLimitsConnections: the listener of the agent's API is one that does.
func TestAgentLimitsConnections(t *testing.T) {
	h := newHost(t, "limits1")
	l, ok := h.agent.listen.(*limitedListener)
	if !ok || l.all != connsMax || l.each != connsEach {
		t.Fatalf("listener: %T", h.agent.listen)
	}
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.9")}}
	conn, err := from.DialContext(t.Context(), "tcp", h.agent.o.ListenAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h.eventually("the connection to be counted", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.open[netip.MustParseAddr("127.0.0.9")] == 1
	})
}
