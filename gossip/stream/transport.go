package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Transport makes connections. What they carry is encrypted above it.
type Transport interface {
	Dial(ctx context.Context, address string) (net.Conn, error)
	Listen(ctx context.Context) (net.Listener, error)
}

// Clock is where links read time.
type Clock interface {
	Now() time.Time
	// After delivers once, d from now, like time.After.
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now returns the current time.
func (SystemClock) Now() time.Time { return time.Now() }

// After waits on the machine's clock.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// TCP is the Transport of daemons; it listens on Address, host:port.
type TCP struct{ Address string }

// Dial connects to host:port.
func (TCP) Dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// Listen opens the port.
func (t TCP) Listen(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", t.Address)
}

// Memory is a network within one process.
type Memory struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener // guarded by mu
}

// NewMemory returns a network without hosts.
func NewMemory() *Memory { return &Memory{listeners: make(map[string]*memoryListener)} }

// At returns the Transport of the host with this address.
func (m *Memory) At(address string) Transport { return memoryHost{m, address} }

type memoryHost struct {
	network *Memory
	address string
}

var errRefused = errors.New("connection refused")

func (h memoryHost) Dial(ctx context.Context, address string) (net.Conn, error) {
	h.network.mu.Lock()
	l := h.network.listeners[address]
	h.network.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", address, errRefused)
	}
	near, far := net.Pipe()
	select {
	case l.accept <- far:
		return near, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: %w", address, errRefused)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h memoryHost) Listen(context.Context) (net.Listener, error) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	if h.network.listeners[h.address] != nil {
		return nil, fmt.Errorf("listen on %s: address in use", h.address)
	}
	l := &memoryListener{host: h, accept: make(chan net.Conn), closed: make(chan struct{})}
	h.network.listeners[h.address] = l
	return l, nil
}

type memoryListener struct {
	host   memoryHost
	accept chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.host.network.mu.Lock()
		delete(l.host.network.listeners, l.host.address)
		l.host.network.mu.Unlock()
		close(l.closed)
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr(l.host.address) }

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }
