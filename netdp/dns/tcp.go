package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxStreams bounds connections of all clients, and maxStreamsEach those of
	// one, so that no pod keeps the others from asking by TCP.
	maxStreams, maxStreamsEach = 256, 32
	// streamIdle is how long a connection may wait for its next question (RFC
	// 7766, 6.2.3: a few seconds), and for us to get rid of an answer.
	streamIdle = 8 * time.Second
	// momentPause keeps a failing accept from filling a core.
	momentPause = 10 * time.Millisecond
)

// isMoment tells errors of a socket that pass: for one, a host out of files.
func isMoment(err error) bool {
	return !errors.Is(err, net.ErrClosed) && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, syscall.ECONNREFUSED))
}

// streams counts connections by client.
type streams struct {
	mu   sync.Mutex
	all  int                // guarded by mu
	each map[netip.Addr]int // guarded by mu
}

func (c *streams) enter(from netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxStreams || c.each[from] >= maxStreamsEach {
		return false
	}
	c.all++
	c.each[from]++
	return true
}

func (c *streams) leave(from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.each[from]--; c.each[from] == 0 {
		delete(c.each, from)
	}
}

// serveStream takes connections until the listener is closed.
func (s *Server) serveStream(ctx context.Context) error {
	open := &streams{each: map[netip.Addr]int{}}
	for {
		conn, err := s.stream.Accept()
		if err != nil {
			if ctx.Err() == nil && isMoment(err) {
				select {
				case <-ctx.Done():
				case <-time.After(momentPause):
				}
				continue
			}
			return err
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !s.o.Allowed(from) || !open.enter(from) {
			s.metrics.strangers.Inc()
			_ = conn.Close()
			continue
		}
		s.wg.Go(func() {
			defer open.leave(from)
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer conn.Close()
			s.conversation(ctx, conn)
		})
	}
}

// conversation answers a connection's questions, one after the other.
func (s *Server) conversation(ctx context.Context, conn net.Conn) {
	r := s.newReader()
	var size [2]byte
	var in []byte
	for {
		_ = conn.SetDeadline(time.Now().Add(streamIdle))
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > maxQuery {
			return
		}
		if cap(in) < n {
			in = make([]byte, n)
		}
		if _, err := io.ReadFull(conn, in[:n]); err != nil {
			return
		}
		out := s.message(ctx, r, in[:n])
		if out == nil {
			return
		}
		binary.BigEndian.PutUint16(out, uint16(len(out)-2))
		_ = conn.SetDeadline(time.Now().Add(streamIdle))
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// message answers one message of a stream, with room for its length before it.
func (s *Server) message(ctx context.Context, r *reader, in []byte) []byte {
	s.metrics.tcp.Inc()
	rcode, err := r.query.Read(in)
	if err != nil {
		s.metrics.ignored.Inc()
		return nil
	}
	out := make([]byte, 2, 512)
	if rcode != dns.RcodeSuccess {
		return s.fail(out, &r.query, rcode)
	}
	out, later := r.answer(out, math.MaxUint16)
	if later {
		out = append(out, s.later(ctx, &r.query, math.MaxUint16)...)
	}
	return out
}
