package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"shoal/netdp/dns/forward"
	"shoal/netdp/dns/records"
)

const (
	// Port is the one listened at where it is free. Pods call another: that of
	// the service. It is below those given to programs that ask for none.
	Port = 1053
	// maxSockets bounds the readers of datagrams. One fills a core.
	maxSockets = 4
	// readBuffer holds what comes while a reader works, in bytes: some
	// thousand questions.
	readBuffer = 1 << 20
	// maxWaiting bounds questions that wait for other servers, each with a
	// goroutine. Many may wait for one flight of package forward.
	maxWaiting = 4096
)

// Options are what a Server works with; all are required.
type Options struct {
	Address netip.Addr // to listen at
	Index   *records.Index
	Forward *forward.Forwarder
	// Synced tells whether the index knows all there is.
	Synced func() bool
	// Allowed tells whose questions are answered.
	Allowed func(netip.Addr) bool
	Logger  *slog.Logger
}

// Server answers questions at one address, by UDP and TCP.
type Server struct {
	o       Options
	domain  []byte // of the index, in wire form
	metrics *metrics
	port    uint16
	stream  net.Listener
	packets []*net.UDPConn
	waiting chan struct{} // a place for each question that waits
	wg      sync.WaitGroup
}

// Listen takes the address, at Port or, where somebody has that, at any other.
// Questions wait until Run.
func Listen(ctx context.Context, o Options) (*Server, error) {
	s := &Server{o: o, metrics: newMetrics(), waiting: make(chan struct{}, maxWaiting)}
	var err error
	if s.domain, err = o.Index.Domain(); err != nil {
		return nil, err
	}
	for _, port := range []uint16{Port, 0} {
		err = s.listen(ctx, netip.AddrPortFrom(o.Address, port))
		if err == nil {
			return s, nil
		}
		s.close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, fmt.Errorf("listen for DNS questions of pods at %s: %w", o.Address, err)
}

// listen takes TCP first: several sockets share the port of UDP, so that only
// TCP tells whether somebody else has it.
func (s *Server) listen(ctx context.Context, at netip.AddrPort) (err error) {
	if s.stream, err = new(net.ListenConfig).Listen(ctx, "tcp", at.String()); err != nil {
		return err
	}
	bound, err := netip.ParseAddrPort(s.stream.Addr().String())
	if err != nil {
		return err
	}
	s.port = bound.Port()
	share := net.ListenConfig{Control: reusePort}
	for range min(runtime.GOMAXPROCS(0), maxSockets) {
		conn, err := share.ListenPacket(ctx, "udp", bound.String())
		if err != nil {
			return err
		}
		udp := conn.(*net.UDPConn)
		_ = udp.SetReadBuffer(readBuffer) // as large as the host allows
		s.packets = append(s.packets, udp)
	}
	return nil
}

func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); e != nil {
		return e
	}
	return err
}

// Addr is where the server listens.
func (s *Server) Addr() netip.AddrPort { return netip.AddrPortFrom(s.o.Address, s.port) }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	failed := make(chan error, 1+len(s.packets))
	s.wg.Go(func() { failed <- s.serveStream(ctx) })
	for _, conn := range s.packets {
		s.wg.Go(func() { failed <- s.servePackets(ctx, conn) })
	}
	err := <-failed
	stopped := ctx.Err() != nil
	cancel()
	s.close()
	s.wg.Wait()
	if err != nil && !stopped {
		return fmt.Errorf("serve DNS: %w", err)
	}
	return nil
}

// close lets go of the sockets; those that wait on them return.
func (s *Server) close() {
	if s.stream != nil {
		_ = s.stream.Close()
	}
	for _, conn := range s.packets {
		_ = conn.Close()
	}
}

// Close is for a server that never ran.
func (s *Server) Close() { s.close() }
