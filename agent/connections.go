package agent

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// connsMax bounds connections to the agent's API at once: each costs some
	// 40 KB before anybody has said who they are.
	connsMax = 1024
	// connsEach is how many of them one address may have, so that one caller
	// leaves room for others. A terminal, a forwarded port or a copy of an image
	// takes one each; everything else of an API server shares one.
	connsEach = 256
	// refusedEvery spaces out what the log says of connections that were refused.
	refusedEvery = time.Minute
)

// limitedListener closes connections at once that are too many, of all or of
// their address, rather than let them wait in front of others.
type limitedListener struct {
	net.Listener
	all, each int
	log       *slog.Logger

	mu     sync.Mutex
	open   map[netip.Addr]int // guarded by mu
	total  int                // guarded by mu
	warned time.Time          // guarded by mu
}

func limitConnections(l net.Listener, all, each int, log *slog.Logger) *limitedListener {
	return &limitedListener{Listener: l, all: all, each: each, log: log, open: map[netip.Addr]int{}}
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(conn)
		if l.take(from) {
			return &limitedConn{Conn: conn, free: sync.OnceFunc(func() { l.free(from) })}, nil
		}
		_ = conn.Close()
	}
}

func (l *limitedListener) take(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total < l.all && l.open[from] < l.each {
		l.total++
		l.open[from]++
		return true
	}
	if now := time.Now(); now.Sub(l.warned) >= refusedEvery {
		l.warned = now
		l.log.Warn("connections to the agent's API are refused, as there are too many", "from", from, "its", l.open[from], "all", l.total)
	}
	return false
}

func (l *limitedListener) free(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

func addressOf(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
