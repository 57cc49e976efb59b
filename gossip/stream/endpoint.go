package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// handshakeFor is how long a connection may take to prove itself.
	handshakeFor = 5 * time.Second
	// maxHandshakes at once: strangers can occupy these, and nothing else. When
	// there are more the longest under way ends: a peer's takes some
	// milliseconds, a stranger who says nothing would keep its place for long.
	maxHandshakes = 256
	// maxOthers who are not peers are served at once.
	maxOthers = 32
	// acceptPause after a failed accept, as when file descriptors run out.
	acceptPause = 100 * time.Millisecond
)

// Current is what this version of the package speaks.
var Current = Versions{Oldest: 1, Newest: 1}

// Options of an Endpoint.
type Options struct {
	Transport Transport
	Identity  Identity
	// Versions defaults to Current, Clock to the machine's, Logger to slog's.
	Versions Versions
	Clock    Clock
	Logger   *slog.Logger
	// Others share the port, by the protocol they name.
	Others map[string]Other
	// Refused, if set, is told of a node of this cell that called and with which
	// no version could be agreed on. It must not block.
	Refused func(peer string, err *VersionError)
	// QueueBytes and BytesPerSecond bound each link; they have defaults.
	QueueBytes, BytesPerSecond int
}

// Endpoint makes and accepts links.
type Endpoint struct {
	o Options
	// others has a token for each Other's connection.
	others chan struct{}
}

// New returns an Endpoint. It opens nothing yet.
func New(o Options) (*Endpoint, error) {
	if o.Transport == nil || o.Identity.Roots == nil || o.Identity.Certificate == nil {
		return nil, errors.New("make endpoint: transport, roots and certificate are needed")
	}
	if o.Versions == (Versions{}) {
		o.Versions = Current
	}
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = queueBytes
	}
	if o.BytesPerSecond == 0 {
		o.BytesPerSecond = bytesPerSecond
	}
	return &Endpoint{o: o, others: make(chan struct{}, maxOthers)}, nil
}

// Dial makes a link to the node called peer. The caller runs and closes it.
func (e *Endpoint) Dial(ctx context.Context, address, peer string) (*Link, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeFor)
	defer cancel()
	raw, err := e.o.Transport.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", peer, address, err)
	}
	link, err := e.open(ctx, raw, tls.Client(raw, e.o.Identity.client(peer)), true)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", peer, address, err)
	}
	return link, nil
}

// open shakes hands. The one that dialled speaks first, so that neither waits
// for the other to read.
func (e *Endpoint) open(ctx context.Context, raw net.Conn, conn *tls.Conn, dialled bool) (link *Link, err error) {
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("shake hands: %w", err)
	}
	if spoken := conn.ConnectionState().NegotiatedProtocol; spoken != PeerProtocol {
		return nil, fmt.Errorf("shake hands: the other end speaks %q, not %q", spoken, PeerProtocol)
	}
	peer, err := NodeName(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	version, err := e.agree(conn, dialled)
	if v := (*VersionError)(nil); errors.As(err, &v) && !dialled && e.o.Refused != nil {
		e.o.Refused(peer, v)
	}
	if err != nil {
		return nil, fmt.Errorf("agree on a version with %s: %w", peer, err)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return &Link{
		Peer: peer, Version: version, conn: conn, clock: e.o.Clock,
		queue:  newQueue(e.o.QueueBytes),
		bucket: newBucket(e.o.BytesPerSecond, min(burstBytes, e.o.BytesPerSecond), e.o.Clock.Now()),
	}, nil
}

func (e *Endpoint) agree(conn *tls.Conn, dialled bool) (uint16, error) {
	if dialled {
		if err := writeHello(conn, e.o.Versions); err != nil {
			return 0, err
		}
	}
	theirs, err := readHello(conn)
	if err != nil {
		return 0, err
	}
	if !dialled {
		// Also when there is no common version: the other must know why.
		if err := writeHello(conn, e.o.Versions); err != nil {
			return 0, err
		}
	}
	return e.o.Versions.common(theirs)
}

// Serve accepts links until ctx ends, and calls accept for each in a goroutine
// of its own. It closes the link when accept returns, and returns after all.
func (e *Endpoint) Serve(ctx context.Context, accept func(context.Context, *Link)) error {
	listener, err := e.o.Transport.Listen(ctx)
	if err != nil {
		return fmt.Errorf("listen for peers: %w", err)
	}
	return e.ServeOn(ctx, listener, accept)
}

// ServeOn is Serve on a listener that is open already; it closes it.
func (e *Endpoint) ServeOn(ctx context.Context, listener net.Listener, accept func(context.Context, *Link)) error {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	var children sync.WaitGroup
	defer children.Wait()
	var strangers handshakes
	for {
		raw, err := listener.Accept()
		if ctx.Err() != nil {
			if raw != nil {
				raw.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept peers: %w", err)
			}
			e.o.Logger.Warn("accept peer", "error", err)
			<-e.o.Clock.After(acceptPause)
			continue
		}
		strangers.add(raw)
		children.Go(func() {
			link, other := e.admit(ctx, raw)
			strangers.done(raw)
			switch {
			case link != nil:
				defer link.Close()
				accept(ctx, link)
			case other != nil:
				e.serveOther(ctx, other)
			}
		})
	}
}

// admit shakes hands and returns a link, or the connection of an Other.
func (e *Endpoint) admit(ctx context.Context, raw net.Conn) (*Link, *tls.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeFor)
	defer cancel()
	conn := tls.Server(raw, e.o.Identity.choose(e.o.Others))
	if len(e.o.Others) > 0 {
		stop := context.AfterFunc(ctx, func() { raw.Close() })
		defer stop()
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			e.refused(raw, err)
			return nil, nil
		}
		if _, ok := e.o.Others[conn.ConnectionState().NegotiatedProtocol]; ok {
			return nil, conn
		}
	}
	link, err := e.open(ctx, raw, conn, false)
	if err != nil {
		e.refused(raw, err)
		return nil, nil
	}
	return link, nil
}

func (e *Endpoint) refused(raw net.Conn, err error) {
	e.o.Logger.Debug("refused a connection", "from", raw.RemoteAddr().String(), "error", err)
}

func (e *Endpoint) serveOther(ctx context.Context, conn *tls.Conn) {
	defer conn.Close()
	select {
	case e.others <- struct{}{}:
	default:
		return // too many already; it may try again
	}
	defer func() { <-e.others }()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	e.o.Others[conn.ConnectionState().NegotiatedProtocol].Serve(ctx, conn)
}
