package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// announceTimes and announceEvery are how often a new address is announced
	// unasked: frames get lost, and switches need a moment after a cable is
	// plugged in.
	announceTimes = 5
	announceEvery = time.Second
	// maxAddresses bounds what one host answers for.
	maxAddresses = 4096
)

// Options of a Responder.
type Options struct {
	// Do runs its argument in the network namespace of the interfaces; nil:
	// the caller's is the one.
	Do     func(func() error) error
	Logger *slog.Logger
}

// Responder answers for addresses on some interfaces.
type Responder struct {
	o Options

	mu     sync.Mutex
	closed bool
	ports  map[string]*port // by the interface's name; guarded by mu
	// addresses are answered for; the number is how often each is still to be
	// announced unasked. Guarded by mu.
	addresses map[netip.Addr]int
	telling   bool // tell runs; guarded by mu
	children  sync.WaitGroup
	life      context.Context
	end       context.CancelFunc
}

// New returns a Responder that answers for nothing yet.
func New(o Options) *Responder {
	if o.Do == nil {
		o.Do = func(f func() error) error { return f() }
	}
	r := &Responder{o: o, ports: map[string]*port{}, addresses: map[netip.Addr]int{}}
	r.life, r.end = context.WithCancel(context.Background())
	return r
}

// Set makes r answer for addresses on the interfaces named, and for nothing
// else. What is new is announced unasked; with renew all is. An interface that
// cannot be used is told of in the error, and the others are.
func (r *Responder) Set(interfaces []string, addresses []netip.Addr, renew bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New("set addresses to answer for: the responder is closed")
	}
	var errs []error
	if len(addresses) > maxAddresses {
		errs = append(errs, fmt.Errorf("this host would answer for %d addresses; the last %d are left out", len(addresses), len(addresses)-maxAddresses))
		addresses = addresses[:maxAddresses]
	}
	want := make(map[netip.Addr]int, len(addresses))
	for _, a := range addresses {
		a = a.Unmap()
		left, known := r.addresses[a]
		if !known || renew {
			left = announceTimes
		}
		want[a] = left
	}
	r.addresses = want
	errs = append(errs, r.setPorts(interfaces)...)
	r.startTelling()
	return errors.Join(errs...)
}

// Addresses are those r answers for, in order.
func (r *Responder) Addresses() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Keys(r.addresses), netip.Addr.Compare)
}

// Close ends all answers.
func (r *Responder) Close() {
	r.mu.Lock()
	r.closed, r.addresses = true, nil
	for name, p := range r.ports {
		p.close()
		delete(r.ports, name)
	}
	r.mu.Unlock()
	r.end()
	r.children.Wait()
}

// families are those that there is an address of.
func (r *Responder) families() (v4, v6 bool) {
	for a := range r.addresses {
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	return v4, v6
}

// setPorts opens what is missing and closes what is too much; r.mu is held.
func (r *Responder) setPorts(names []string) (errs []error) {
	v4, v6 := r.families()
	for name, p := range r.ports {
		if !slices.Contains(names, name) || !v4 && !v6 {
			p.close()
			delete(r.ports, name)
		}
	}
	if !v4 && !v6 {
		return nil
	}
	for _, name := range names {
		err := r.o.Do(func() error { return r.setPort(name, v4, v6) })
		if err != nil {
			errs = append(errs, fmt.Errorf("answer for addresses on %s: %w", name, err))
		}
	}
	return errs
}

// setPort runs in the interface's namespace.
func (r *Responder) setPort(name string, v4, v6 bool) error {
	index, mac, err := interfaceOf(name)
	p := r.ports[name]
	if p != nil && (err != nil || p.index != index || !bytes.Equal(p.mac, mac)) {
		p.close() // it is another one by that name
		delete(r.ports, name)
		p = nil
	}
	if err != nil {
		return err
	}
	if p == nil {
		p = &port{index: index, mac: mac, groups: map[netip.Addr]struct{}{}, groupsFD: -1}
		r.ports[name] = p
		for a := range r.addresses { // its neighbours know nothing yet
			r.addresses[a] = announceTimes
		}
	}
	if v4 && p.arp == nil {
		if p.arp, err = r.listen(p, etherARP); err != nil {
			return err
		}
	}
	if !v6 {
		return nil
	}
	if p.ndp == nil {
		if p.ndp, err = r.listen(p, etherIPv6); err != nil {
			return err
		}
	}
	return p.setGroups(r.addresses)
}

func (r *Responder) listen(p *port, kind uint16) (*os.File, error) {
	socket, err := openSocket(p.index, kind)
	if err != nil {
		return nil, err
	}
	r.children.Go(func() { r.answerOn(p, socket) })
	return socket, nil
}

// answerOn answers what is asked on a socket until that is closed, or the
// interface is gone.
func (r *Responder) answerOn(p *port, socket *os.File) {
	frame := make([]byte, 256) // a question fits, with all options there are
	for {
		n, err := socket.Read(frame)
		if errors.Is(err, unix.ENETDOWN) {
			continue // it is told once, and the socket stays
		}
		if err != nil {
			return
		}
		q, ok := parseQuestion(frame[:n])
		if !ok || !r.has(q.target) {
			continue
		}
		if _, err := socket.Write(answer(q, p.mac)); err != nil && !errors.Is(err, os.ErrClosed) {
			r.o.Logger.Debug("answer for an address", "address", q.target, "error", err)
		}
	}
}

func (r *Responder) has(a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.addresses[a]
	return ok
}

// startTelling has what is new told unasked; r.mu is held.
func (r *Responder) startTelling() {
	if r.telling || !r.toTell() {
		return
	}
	r.telling = true
	r.children.Go(r.tell)
}

func (r *Responder) toTell() bool {
	for _, left := range r.addresses {
		if left > 0 {
			return true
		}
	}
	return false
}

// tell announces until nothing is left to announce.
func (r *Responder) tell() {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		r.mu.Lock()
		if r.closed || !r.toTell() {
			r.telling = false
			r.mu.Unlock()
			return
		}
		for a, left := range r.addresses {
			if left == 0 {
				continue
			}
			r.addresses[a] = left - 1
			for _, p := range r.ports {
				if err := p.tell(a); err != nil {
					r.o.Logger.Debug("announce an address", "address", a, "error", err)
				}
			}
		}
		r.mu.Unlock()
		select {
		case <-r.life.Done():
		case <-tick.C:
		}
	}
}
