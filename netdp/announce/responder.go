package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxAddresses bounds what one host answers for.
	maxAddresses = 4096
)

// Options of a Responder.
type Options struct {
	// Do runs its argument in the network namespace of the interfaces; nil:
	// the caller's is the one.
	Do func(func() error) error
	// OfHost tells whether a hardware address is of a host of the cell, which
	// will stop answering; nil: none is. It must not call the Responder.
	OfHost func(net.HardwareAddr) bool
	// Changed is called when Answers says something else than before, by
	// goroutines of the Responder's that wait for it; nil: nobody wants to know.
	Changed func()
	// RetryTaken is when an address that another machine has is looked at again;
	// 0 is a default.
	RetryTaken time.Duration
	Logger     *slog.Logger
}

// Responder answers for addresses on some interfaces.
type Responder struct {
	o Options

	mu        sync.Mutex
	closed    bool
	ports     map[string]*port     // by the interface's name; guarded by mu
	named     int                  // interfaces that there should be a port on; guarded by mu
	addresses map[netip.Addr]*held // guarded by mu
	working   bool                 // work runs; guarded by mu
	wake      chan struct{}        // one token: something is due earlier
	children  sync.WaitGroup
	life      context.Context
	end       context.CancelFunc
}

// New returns a Responder that answers for nothing yet.
func New(o Options) *Responder {
	if o.Do == nil {
		o.Do = func(f func() error) error { return f() }
	}
	if o.OfHost == nil {
		o.OfHost = func(net.HardwareAddr) bool { return false }
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.RetryTaken == 0 {
		o.RetryTaken = retryTaken
	}
	r := &Responder{o: o, ports: map[string]*port{}, addresses: map[netip.Addr]*held{}, wake: make(chan struct{}, 1)}
	r.life, r.end = context.WithCancel(context.Background())
	return r
}

// Set makes r answer for addresses on the interfaces named, and for nothing
// else. What is new is probed and then announced unasked; with renew all is
// announced. An interface that cannot be used is told of in the error, and the
// others are.
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
	now := time.Now()
	want := make(map[netip.Addr]*held, len(addresses))
	for _, a := range addresses {
		a = a.Unmap()
		h := r.addresses[a]
		switch {
		case h == nil:
			h = newHeld(now)
		case renew:
			h.renew(now)
		}
		want[a] = h
	}
	r.addresses = want
	errs = append(errs, r.setPorts(interfaces)...)
	r.startWork()
	return errors.Join(errs...)
}

// Addresses are those r answers for, in order.
func (r *Responder) Addresses() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.SortedFunc(maps.Keys(r.addresses), netip.Addr.Compare)
	return slices.DeleteFunc(all, func(a netip.Addr) bool { return r.addresses[a].phase != holding })
}

// Answers tells whether r answers for an address by now, on one interface at least,
// and if another machine has it, which.
func (r *Responder) Answers(a netip.Addr) (yes bool, taken net.HardwareAddr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.addresses[a.Unmap()]
	if h == nil {
		return false, nil
	}
	return h.phase == holding && r.reachable(a), h.holder
}

// reachable: questions for an address are heard on some interface, or there is none
// to hear them on; r.mu is held.
func (r *Responder) reachable(a netip.Addr) bool {
	for _, p := range r.ports {
		if p.socket(a.Unmap()) != nil {
			return true
		}
	}
	return r.named == 0
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
	r.named = len(names)
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
		for _, h := range r.addresses { // its neighbours know nothing yet
			h.reach(time.Now())
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
		if c, ok := parseClaim(frame[:n]); ok {
			r.heard(c)
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
	h := r.addresses[a]
	return h != nil && h.phase == holding
}
