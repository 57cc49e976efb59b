package announce

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"
)

const (
	// announceTimes and announceEvery are how often a new address is announced
	// unasked: frames get lost, and switches need a moment after a cable is
	// plugged in.
	announceTimes = 5
	announceEvery = time.Second
	// probeTimes and probeEvery are how often it is asked before whether somebody
	// has the address. RFC 5227 takes seconds, for machines behind slow bridges;
	// here callers wait for the host that takes over from one that died, and who
	// answers late is still heard.
	probeTimes = 3
	probeEvery = 200 * time.Millisecond
	// retryTaken is Options.RetryTaken unless it is given.
	retryTaken = 30 * time.Second
	// retryHost is when it is asked again after a host of the cell has answered,
	// and hostPatience how long that is waited for: hosts that do not see each
	// other both announce.
	retryHost    = time.Second
	hostPatience = 5 * time.Second
	// defendEvery is how long after a claim another one ends the defence
	// (DEFEND_INTERVAL of RFC 5227, 2.4 b).
	defendEvery = 10 * time.Second
)

// phase is how far an address is.
type phase uint8

const (
	probing phase = iota
	holding       // it is answered for
	taken         // another machine has it
)

// held is one address that Set listed.
type held struct {
	phase phase
	left  int       // how often it is still to be probed, or told
	due   time.Time // when that is to be done next, or a taken one probed again
	// since is when probing began: a host of the cell is waited for from then on.
	since time.Time
	// holder is the machine that was heard to have it, until none is.
	holder   net.HardwareAddr
	defended time.Time
}

func newHeld(now time.Time) *held {
	return &held{left: probeTimes, due: now, since: now}
}

// idle: there is nothing to do until something is heard.
func (h *held) idle() bool { return h.phase == holding && h.left == 0 }

// renew has it told again, or looked at again where another machine had it.
// Probes that are under way go on: begun anew each time gossip hears of a host, they
// would not end while hosts come and go.
func (h *held) renew(now time.Time) {
	switch h.phase {
	case holding:
		h.left, h.due = announceTimes, now
	case taken:
		h.again(now, now)
	}
}

// reach has it told, or probed, on one more interface.
func (h *held) reach(now time.Time) {
	if h.phase == probing {
		h.again(now, h.since)
		return
	}
	h.renew(now)
}

// again begins to probe anew, at a time.
func (h *held) again(at, since time.Time) {
	h.phase, h.left, h.due, h.since = probing, probeTimes, at, since
}

// heard takes in that a machine claims the address. It tells whether the caller
// of Answers would hear something else now.
func (h *held) heard(c claim, ofHost bool, now time.Time, retryTaken time.Duration) (changed bool) {
	switch {
	case h.phase == taken, h.phase == holding && c.probe:
		return false // a probe is answered, and tells its sender
	case ofHost && (h.phase == holding || c.probe || now.Sub(h.since) > hostPatience):
		return false // which of the hosts has it, the next election says
	case ofHost:
		h.again(now.Add(retryHost), h.since)
		return false
	case h.phase == holding && now.Sub(h.defended) > defendEvery:
		h.defended, h.left, h.due = now, max(h.left, 1), now
		return false
	}
	h.phase, h.left, h.due, h.holder = taken, 0, now.Add(retryTaken), c.mac
	return true
}

// step does what is due: probe and tell send about the address.
func (h *held) step(now time.Time, probe, tell func()) (changed bool) {
	if h.idle() || now.Before(h.due) {
		return false
	}
	if h.phase == taken {
		h.again(now, now)
	}
	switch {
	case h.phase == probing && h.left > 0:
		probe()
		h.left--
		h.due = now.Add(probeEvery)
		return false
	case h.phase == probing: // and nobody has answered
		h.phase, h.left, h.holder = holding, announceTimes, nil
		changed = true
	}
	tell()
	h.left--
	h.due = now.Add(announceEvery)
	return changed
}

// heard takes in what a machine says of its address.
func (r *Responder) heard(c claim) {
	r.mu.Lock()
	h := r.addresses[c.addr]
	if h == nil || r.isOwn(c.mac) {
		r.mu.Unlock()
		return
	}
	changed := h.heard(c, r.o.OfHost(c.mac), time.Now(), r.o.RetryTaken)
	r.startWork()
	r.mu.Unlock()
	if changed {
		r.o.Logger.Warn("another machine on the link has an address of a service", "address", c.addr, "at", c.mac.String())
		r.o.Changed()
	}
}

// isOwn: the frame came back, or from another interface of this host; r.mu is held.
func (r *Responder) isOwn(mac net.HardwareAddr) bool {
	for _, p := range r.ports {
		if string(p.mac) == string(mac) {
			return true
		}
	}
	return false
}

// startWork has what is due done; r.mu is held.
func (r *Responder) startWork() {
	if r.closed || len(r.addresses) == 0 {
		return
	}
	if r.working {
		select {
		case r.wake <- struct{}{}:
		default:
		}
		return
	}
	r.working = true
	r.children.Go(r.work)
}

// work probes and announces until nothing is left to do. It sends without r.mu: a
// link whose queue is full keeps nobody else waiting.
func (r *Responder) work() {
	for {
		r.mu.Lock()
		out, next, changed := r.step(time.Now())
		if r.closed || next.IsZero() {
			r.working = false
		}
		done := !r.working
		r.mu.Unlock()
		for _, o := range out {
			if err := o.send(); err != nil && !errors.Is(err, os.ErrClosed) {
				r.o.Logger.Debug(o.what, "address", o.about, "error", err)
			}
		}
		if changed {
			r.o.Changed()
		}
		if done {
			return
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-r.life.Done():
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step says what is to be sent now, and when more is due; zero: nothing is. r.mu
// is held.
func (r *Responder) step(now time.Time) (out []outgoing, next time.Time, changed bool) {
	for a, h := range r.addresses {
		by := func(frames func(*port, netip.Addr) outgoing) func() {
			return func() {
				for _, p := range r.ports {
					out = append(out, frames(p, a))
				}
			}
		}
		changed = h.step(now, by((*port).probe), by((*port).tell)) || changed
		if !h.idle() && (next.IsZero() || h.due.Before(next)) {
			next = h.due
		}
	}
	return out, next, changed
}
