package join

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/gossip/join/token"
)

// Tokens are the cell's join tokens.
type Tokens interface {
	// Token returns the token with this id; ok is false when there is none.
	Token(ctx context.Context, id string) (t token.Stored, ok bool, err error)
	// Use uses up a single-use token for node; won is false when another did.
	Use(ctx context.Context, id, node string) (won bool, err error)
}

// Names says who holds a node's name.
type Names interface {
	// Alive reports whether a member of that name answers.
	Alive(name string) bool
	// Known reports whether the cell has a Node object of that name.
	Known(ctx context.Context, name string) (bool, error)
}

// ErrNameClaimed says that another host has claimed a name.
var ErrNameClaimed = errors.New("name is claimed by another host")

// Tags hands out peers' numbers.
type Tags interface {
	// Claim returns the number of the peer called name with this key, the same
	// one every time. The error wraps ErrNameClaimed when a host with another
	// key has claimed the name.
	Claim(ctx context.Context, name string, key crypto.PublicKey) (uint16, error)
}

// Issuer signs node certificates; pki.Issuer is one.
type Issuer interface {
	SignNode(key crypto.PublicKey, name string, ips []net.IP, now time.Time) ([]byte, error)
}

// Options of a Service.
type Options struct {
	Tokens Tokens
	Names  Names
	Tags   Tags
	Issuer Issuer
	// Certificate returns this node's certificate, CA the cell's authority.
	Certificate func() (*tls.Certificate, error)
	CA          *x509.Certificate
	// Cell returns what a grant says of the cell.
	Cell func(ctx context.Context) (Cell, error)

	// Now defaults to the machine's clock, Versions to Current.
	Now      func() time.Time
	Versions Versions
	Logger   *slog.Logger
}

// Cell is what a host learns of the cell it joins.
type Cell struct {
	// GossipKeys, Peers, ServiceCIDR and Settings are those of a Grant.
	GossipKeys  [][]byte
	Peers       []netip.AddrPort
	ServiceCIDR netip.Prefix
	Settings    map[string]string
}

// refuses returns why a host that was told these settings may not join.
func (c Cell) refuses(told map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(told)) {
		if has, known := c.Settings[name]; known && has != told[name] {
			return &Refusal{Code: OtherSetting, Setting: name, Has: has, Said: told[name]}
		}
	}
	return nil
}

const (
	// sessionFor is how long one host may take to join.
	sessionFor = 15 * time.Second
	// maxSessions at once; strangers can occupy these, and nothing else.
	maxSessions = 32
)

// Service lets hosts in.
type Service struct {
	o        Options
	attempts limiter
	sessions chan struct{}

	// admitting serialises decisions, so that two hosts cannot both find a name
	// free at this peer.
	admitting sync.Mutex
}

// NewService returns a Service.
func NewService(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Versions == (Versions{}) {
		o.Versions = Current
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, sessions: make(chan struct{}, maxSessions)}
}

// TLS is how the service proves itself. A listener shared with other protocols
// returns it from GetConfigForClient when the client offers Protocol.
func (s *Service) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{Protocol},
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := s.o.Certificate()
			if err != nil {
				return nil, err
			}
			// The CA goes along: the joiner knows only its hash.
			chain := *cert
			chain.Certificate = [][]byte{cert.Certificate[0], s.o.CA.Raw}
			return &chain, nil
		},
	}
}

// Serve accepts joiners until ctx ends, and closes the listener.
func (s *Service) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer func() { _ = listener.Close() }()
	var children sync.WaitGroup
	defer children.Wait()
	for {
		raw, err := listener.Accept()
		switch {
		case ctx.Err() != nil:
			if raw != nil {
				_ = raw.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept joining hosts: %w", err)
		case err != nil:
			s.o.Logger.Warn("accept a joining host", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // as when file descriptors run out
			}
			continue
		}
		children.Go(func() { s.Handle(ctx, tls.Server(raw, s.TLS())) })
	}
}

// Handle serves one joiner and closes the connection. The handshake may have
// been made already.
func (s *Service) Handle(ctx context.Context, conn *tls.Conn) {
	defer func() { _ = conn.Close() }()
	select {
	case s.sessions <- struct{}{}:
		defer func() { <-s.sessions }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sessionFor)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.NetConn().Close() })
	defer stop()
	if err := conn.HandshakeContext(ctx); err != nil || conn.ConnectionState().NegotiatedProtocol != Protocol {
		s.o.Logger.Debug("a connection to the join service was not one", "from", conn.RemoteAddr().String(), "error", err)
		return
	}
	source := conn.RemoteAddr().String()
	name, refusal, err := s.session(ctx, conn)
	switch {
	case err != nil:
		s.o.Logger.Debug("a joining host broke off", "from", source, "error", err)
	case refusal != nil:
		s.o.Logger.Warn("a host may not join", "from", source, "node", name, "code", refusal.Code, "detail", refusal.Detail)
		if err := writeMessage(conn, answer{Refusal: refusal}); err != nil {
			s.o.Logger.Debug("a refused host broke off", "from", source, "error", err)
		}
	default:
		s.o.Logger.Info("a host joins", "from", source, "node", name)
	}
}

func (s *Service) session(ctx context.Context, conn *tls.Conn) (name string, refusal *Refusal, err error) {
	var first hello
	if err := readMessage(conn, &first); err != nil {
		return "", badRequest(err), ignoreBad(err)
	}
	version, refusal := agree(first.Versions, s.o.Versions)
	if refusal != nil {
		return "", refusal, nil
	}
	now := s.o.Now()
	if skew := first.Clock.Sub(now); beyondSkew(skew) {
		return "", &Refusal{Code: ClockSkew, Skew: skew}, nil
	}
	if err := writeMessage(conn, answer{Welcome: &welcome{Version: version, Clock: now}}); err != nil {
		return "", nil, err
	}
	var r request
	err = readMessage(conn, &r)
	// Counted before it is looked at: a bad request is an attempt too.
	if wait, ok := s.attempts.take(sourceOf(conn), s.o.Now()); !ok && (err == nil || errors.Is(err, errMessage)) {
		return "", &Refusal{Code: TooMany, RetryAfter: wait}, nil
	}
	if err != nil {
		return "", badRequest(err), ignoreBad(err)
	}
	grant, err := s.admit(ctx, &r)
	if err != nil {
		if errors.As(err, &refusal) {
			return r.Name, refusal, nil
		}
		// The joiner need not read our insides.
		s.o.Logger.Error("a host could not be let in", "node", r.Name, "error", err)
		return r.Name, &Refusal{Code: Unable, Detail: "an error there, see its log"}, nil
	}
	return r.Name, nil, writeMessage(conn, answer{Grant: grant})
}

func sourceOf(conn net.Conn) netip.Addr {
	addr, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap()
}

// badRequest and ignoreBad tell what is worth an answer from a line that broke.
func badRequest(err error) *Refusal {
	if errors.Is(err, errMessage) {
		return &Refusal{Code: BadRequest, Detail: err.Error()}
	}
	return nil
}

func ignoreBad(err error) error {
	if errors.Is(err, errMessage) {
		return nil
	}
	return err
}

// admit decides. The token's secret is looked at before anything is told about
// names; the token is used up after all that could be refused.
func (s *Service) admit(ctx context.Context, r *request) (*Grant, error) {
	s.admitting.Lock()
	defer s.admitting.Unlock()
	t, err := s.checkToken(ctx, r)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, &Refusal{Code: BadRequest, Detail: "certificate request: " + err.Error()}
	}
	if err := s.checkName(ctx, r.Name); err != nil {
		return nil, err
	}
	cell, err := s.o.Cell(ctx)
	if err != nil {
		return nil, err
	}
	if err := cell.refuses(r.Settings); err != nil {
		return nil, err
	}
	tag, err := s.o.Tags.Claim(ctx, r.Name, csr.PublicKey)
	if errors.Is(err, ErrNameClaimed) {
		return nil, &Refusal{Code: NameKnown, Name: r.Name}
	}
	if err != nil {
		return nil, err
	}
	if t.SingleUse {
		if won, err := s.o.Tokens.Use(ctx, t.ID, r.Name); err != nil {
			return nil, err
		} else if !won {
			return nil, &Refusal{Code: UsedToken, Name: "another host"}
		}
	}
	return s.grant(r, csr.PublicKey, tag, cell)
}

func (s *Service) checkToken(ctx context.Context, r *request) (token.Stored, error) {
	t, ok, err := s.o.Tokens.Token(ctx, r.TokenID)
	if err != nil {
		return t, err
	}
	switch matches := t.Matches(r.Secret); {
	case !ok || !matches:
		return t, &Refusal{Code: UnknownToken}
	case t.Expired(s.o.Now()):
		return t, &Refusal{Code: ExpiredToken}
	case t.SingleUse && t.UsedBy != "":
		return t, &Refusal{Code: UsedToken, Name: t.UsedBy}
	}
	return t, nil
}

func (s *Service) checkName(ctx context.Context, name string) error {
	if s.o.Names.Alive(name) {
		return &Refusal{Code: NameAlive, Name: name}
	}
	known, err := s.o.Names.Known(ctx, name)
	if err != nil {
		return err
	}
	if known {
		return &Refusal{Code: NameKnown, Name: name}
	}
	return nil
}

func (s *Service) grant(r *request, key crypto.PublicKey, tag uint16, cell Cell) (*Grant, error) {
	// A host speaks to itself under its node certificate, too.
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, a := range r.Addresses {
		ips = append(ips, a.Unmap().AsSlice())
	}
	cert, err := s.o.Issuer.SignNode(key, r.Name, ips, s.o.Now())
	if err != nil {
		return nil, err
	}
	g := &Grant{
		Certificate: cert, CA: s.o.CA.Raw, Tag: tag,
		GossipKeys: cell.GossipKeys, Peers: cell.Peers[:min(len(cell.Peers), maxPeers)], ServiceCIDR: cell.ServiceCIDR, Settings: cell.Settings,
	}
	return g, g.check()
}
