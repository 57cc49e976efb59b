package netdp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// Programs leave packets to older ones for takeoverWithin after they were told last, in
// case that nobody is left to tell them (bpf/takeover.h). They are told as long as the
// takeover takes, which passes over full maps make long, but at most takeoverLimit.
const (
	takeoverWithin = 2 * time.Second
	takeoverRenew  = 200 * time.Millisecond
	takeoverLimit  = 2 * time.Minute
)

// takeover is the time in which programs of two daemons are on the uplinks, since
// connections must be carried from the older ones' maps.
type takeover struct {
	// Words of this daemon's programs; until is zero when it is over.
	until, complete *ebpf.Variable
	older           []link.Link
	stop            func() error // ends what begin began; nil when it did not
}

// begin has the programs leave unknown connections to those behind them.
func (t *takeover) begin() error {
	if err := errors.Join(t.complete.Set(uint32(0)), t.renew()); err != nil {
		return fmt.Errorf("begin takeover: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), takeoverLimit)
	ended := make(chan error, 1)
	go func() { ended <- t.keep(ctx) }()
	t.stop = func() error {
		cancel()
		return <-ended
	}
	return nil
}

// keep renews until ctx ends.
func (t *takeover) keep(ctx context.Context) error {
	tick := time.NewTicker(takeoverRenew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := t.renew(); err != nil {
			return fmt.Errorf("renew takeover: %w", err)
		}
	}
}

func (t *takeover) renew() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	return t.until.Set(uint64(now.Nano()) + uint64(takeoverWithin))
}

// begun says that the programs are in all places, so that connections may begin
// with them.
func (t *takeover) begun() error { return named("complete takeover", t.complete.Set(uint32(1))) }

// end takes the older programs away. It may be called again.
func (t *takeover) end() error {
	var errs []error
	if t.stop != nil {
		errs = append(errs, t.stop())
		t.stop = nil
	}
	errs = append(errs, named("end takeover", t.until.Set(uint64(0))))
	for _, l := range t.older {
		errs = append(errs, named("detach older program", l.Close())) // its pin is gone
	}
	t.older = nil
	return errors.Join(errs...)
}

// attachBefore puts a program before the one of an earlier daemon's link, whose pin it
// gets. It fails with os.ErrNotExist when there is no such link.
func (d *Datapath) attachBefore(path string, ifindex int, prog *ebpf.Program, where ebpf.AttachType) error {
	old, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: where, Anchor: link.BeforeLink(old)})
	if err != nil {
		return errors.Join(err, old.Close())
	}
	d.takeover.older = append(d.takeover.older, old)
	if err := replacePin(l.Pin, path); err != nil {
		return errors.Join(err, l.Close())
	}
	d.links.hold(path, l)
	return nil
}

// openTakeover finds the words by which the programs are told.
func (d *Datapath) openTakeover(coll *ebpf.Collection) error {
	for name, v := range map[string]**ebpf.Variable{
		bpf.DatapathVarTakeoverUntilNs:  &d.takeover.until,
		bpf.DatapathVarTakeoverComplete: &d.takeover.complete,
	} {
		if *v = coll.Variables[name]; *v == nil {
			return fmt.Errorf("the programs have no variable %s", name)
		}
	}
	return nil
}
