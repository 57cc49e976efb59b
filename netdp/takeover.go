package netdp

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// takeoverWithin is when programs stop to leave packets to older ones, in case that
// nobody is left to tell them (bpf/takeover.h). Passes over full maps take 0.1 s.
const takeoverWithin = 10 * time.Second

// takeover is the time in which programs of two daemons are on the uplinks, since
// connections must be carried from the older ones' maps.
type takeover struct {
	// Words of this daemon's programs; until is zero when it is over.
	until, complete *ebpf.Variable
	older           []link.Link
}

// begin has the programs leave unknown connections to those behind them.
func (t *takeover) begin() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	return named("begin takeover", t.until.Set(uint64(now.Nano())+uint64(takeoverWithin)))
}

// begun says that the programs are in all places, so that connections may begin
// with them.
func (t *takeover) begun() error { return named("complete takeover", t.complete.Set(uint32(1))) }

// end takes the older programs away. It may be called again.
func (t *takeover) end() error {
	errs := []error{named("end takeover", t.until.Set(uint64(0)))}
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
	if err := os.Remove(path); err != nil {
		return errors.Join(fmt.Errorf("remove pin of older link: %w", err), l.Close())
	}
	return d.pinAndHold(l, path)
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
