package dns

import (
	"context"
	"net"
	"net/netip"

	"github.com/miekg/dns"

	"shoal/netdp/dns/wire"
)

// maxQuery is the longest question, in bytes. Real ones have a name and some
// options, at most a few hundred.
const maxQuery = 4096

// servePackets answers at one socket until it is closed.
func (s *Server) servePackets(ctx context.Context, conn *net.UDPConn) error {
	r := s.newReader()
	in, out := make([]byte, maxQuery), make([]byte, 0, wire.MaxUDP)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if err != nil {
			if ctx.Err() == nil && isMoment(err) {
				continue
			}
			return err
		}
		if out = s.packet(ctx, r, conn, in[:n], from, out[:0]); len(out) > 0 {
			_, _ = conn.WriteToUDPAddrPort(out, from) // who has gone needs no answer
		}
	}
}

// packet answers one datagram at once, or has that done later.
func (s *Server) packet(ctx context.Context, r *reader, conn *net.UDPConn, in []byte, from netip.AddrPort, out []byte) []byte {
	if !s.o.Allowed(from.Addr().Unmap()) {
		s.metrics.strangers.Inc()
		return nil
	}
	s.metrics.udp.Inc()
	rcode, err := r.query.Read(in)
	if err != nil {
		s.metrics.ignored.Inc()
		return nil
	}
	if rcode != dns.RcodeSuccess {
		return s.fail(out, &r.query, rcode)
	}
	out, later := r.answer(out, r.query.Limit())
	if !later {
		return out
	}
	select {
	case s.waiting <- struct{}{}:
	default:
		return s.fail(out, &r.query, dns.RcodeServerFailure)
	}
	q := r.query.Clone()
	s.wg.Go(func() {
		defer func() { <-s.waiting }()
		_, _ = conn.WriteToUDPAddrPort(s.later(ctx, q, q.Limit()), from)
	})
	return nil
}
