package dns

import (
	"bytes"
	"context"

	"github.com/miekg/dns"

	"shoal/netdp/dns/forward"
	"shoal/netdp/dns/records"
	"shoal/netdp/dns/wire"
)

const (
	// maxKnown bounds the packed answers that one reader keeps.
	maxKnown = 4096
	// maxAliases in a row, as most resolvers follow.
	maxAliases = 8
	// firstMeta is where types begin that ask for more than records: transfers,
	// ANY and their like (RFC 6895, 3.1).
	firstMeta = 249
)

// reader answers the questions of one socket. It is one goroutine's.
type reader struct {
	s     *Server
	turn  uint32
	query wire.Query
	// known are answers about the cell as it was at version.
	known   map[string]*wire.Packed
	version uint64
	key     []byte
}

func (s *Server) newReader() *reader {
	return &reader{s: s, known: map[string]*wire.Packed{}}
}

// answer appends the answer to r.query. later: another server has to be asked
// first, by Server.later.
func (r *reader) answer(dst []byte, limit int) (out []byte, later bool) {
	q := &r.query
	switch {
	case q.Class != dns.ClassINET:
		return r.s.fail(dst, q, dns.RcodeRefused), false
	case q.Type == dns.TypeOPT:
		return r.s.fail(dst, q, dns.RcodeFormatError), false
	case q.Type >= firstMeta && q.Type <= dns.TypeANY:
		return r.s.fail(dst, q, dns.RcodeNotImplemented), false // RFC 8482 for ANY
	}
	r.turn++
	if r.s.mayBeOurs(q.Name()) {
		p, rcode, later := r.ours()
		switch {
		case p != nil:
			return r.s.give(dst, q, p, wire.Give{Limit: limit, Turn: r.turn}), false
		case rcode != dns.RcodeSuccess:
			return r.s.fail(dst, q, rcode), false
		case later:
			return dst, true
		}
	}
	p, age, ok := r.s.o.Forward.Cached(q)
	if !ok {
		return dst, true
	}
	return r.s.give(dst, q, p, wire.Give{Limit: limit, Age: age, Turn: r.turn}), false
}

// mayBeOurs tells at a glance which names the index need not be asked for.
func (s *Server) mayBeOurs(name []byte) bool {
	return bytes.HasSuffix(name, s.domain) || bytes.HasSuffix(name, arpa)
}

var arpa = []byte("\x04arpa\x00")

// ours answers from the index. None of the results is set for a name that is
// not the cell's.
func (r *reader) ours() (p *wire.Packed, rcode int, later bool) {
	q, index := &r.query, r.s.o.Index
	r.key = append(append(r.key[:0], q.Name()...), byte(q.Type>>8), byte(q.Type))
	version := index.Version() // before the lookup: what changes meanwhile counts as later
	if version != r.version || len(r.known) >= maxKnown {
		clear(r.known)
		r.version = version
	}
	if p = r.known[string(r.key)]; p != nil {
		return p, 0, false
	}
	name, err := wire.Text(q.Name())
	if err != nil {
		return nil, dns.RcodeFormatError, false
	}
	a := index.Lookup(name, q.Type)
	switch {
	case !a.Ours:
		return nil, 0, false
	case !a.Exists && !r.s.o.Synced():
		return nil, dns.RcodeServerFailure, false
	case a.Alias != "":
		return nil, 0, true
	}
	if p, err = wire.Pack(message(name, q.Type, a)); err != nil {
		return nil, dns.RcodeServerFailure, false
	}
	r.known[string(r.key)] = p
	return p, 0, false
}

func message(name string, qtype uint16, a records.Answer) *dns.Msg {
	m := &dns.Msg{}
	m.SetQuestion(name, qtype)
	m.Response, m.Authoritative = true, true
	m.Answer, m.Extra = a.Records, a.Extra
	if !a.Exists {
		m.Rcode = dns.RcodeNameError
	}
	if len(a.Records) == 0 {
		m.Ns = []dns.RR{a.Authority}
	}
	return m
}

// later answers what other servers have to be asked for.
func (s *Server) later(ctx context.Context, q *wire.Query, limit int) []byte {
	p, err := s.ask(ctx, q)
	if err != nil {
		s.o.Logger.Debug("no answer from upstream DNS servers", "error", err)
		return s.fail(nil, q, dns.RcodeServerFailure)
	}
	return s.give(nil, q, p, wire.Give{Limit: limit})
}

func (s *Server) ask(ctx context.Context, q *wire.Query) (*wire.Packed, error) {
	question := forward.Question{Name: string(q.Name()), Type: q.Type, DNSSEC: q.DNSSEC, NoCheck: q.NoCheck}
	if !s.mayBeOurs(q.Name()) {
		return s.o.Forward.Ask(ctx, question)
	}
	name, err := wire.Text(q.Name())
	if err != nil {
		return nil, err
	}
	a := s.o.Index.Lookup(name, q.Type)
	if !a.Ours {
		return s.o.Forward.Ask(ctx, question)
	}
	m := message(name, q.Type, a)
	if err := s.chase(ctx, m, question, a.Alias); err != nil {
		return nil, err
	}
	return wire.Pack(m)
}

// chase appends to m what an alias stands for.
func (s *Server) chase(ctx context.Context, m *dns.Msg, question forward.Question, alias string) error {
	for range maxAliases {
		if alias == "" {
			return nil
		}
		name, err := wire.FromText(alias)
		if err != nil {
			return err
		}
		a := s.o.Index.Lookup(alias, question.Type)
		if !a.Ours {
			question.Name = string(name)
			r, err := s.o.Forward.Resolve(ctx, question)
			if err != nil {
				return err
			}
			m.Answer, m.Ns, m.Rcode = append(m.Answer, r.Answer...), r.Ns, r.Rcode
			return nil
		}
		if !a.Exists && !s.o.Synced() {
			m.Rcode = dns.RcodeServerFailure
			return nil
		}
		next := message(alias, question.Type, a)
		m.Answer, m.Ns, m.Rcode = append(m.Answer, next.Answer...), next.Ns, next.Rcode
		alias = a.Alias
	}
	m.Rcode = dns.RcodeServerFailure // they go in a ring
	return nil
}

func (s *Server) give(dst []byte, q *wire.Query, p *wire.Packed, g wire.Give) []byte {
	s.metrics.answered(p.Rcode())
	return p.Append(dst, q, g)
}

func (s *Server) fail(dst []byte, q *wire.Query, rcode int) []byte {
	s.metrics.answered(rcode)
	return wire.AppendError(dst, q, rcode)
}
