package netdp

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// reapGroup is the device group of links that are to go. The kernel deletes a
// whole group with the waiting (for RCU, under the lock of all network
// configuration) that one link takes: 100 pods then cost about as much as one.
const reapGroup = 0x73686f61

// reaper deletes links in batches: those that come while a batch is being
// deleted make up the next one.
type reaper struct {
	mu      sync.Mutex // guards all below
	waiting []chan error
	running bool
}

// deleteLink deletes a link and waits until it is gone. One that is not there
// is no error.
func (d *Datapath) deleteLink(name string) error {
	link, err := d.nl.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	err = d.nl.LinkSetGroup(link, reapGroup)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark link %s for deletion: %w", name, err)
	}
	if err := d.reaper.next(d.deleteMarked); err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// next waits for a batch that begins after the call. The goroutine that finds
// nobody at work does the work, for itself and for all who come meanwhile.
func (r *reaper) next(reap func() error) error {
	done := make(chan error, 1)
	r.mu.Lock()
	r.waiting = append(r.waiting, done)
	lead := !r.running
	r.running = true
	r.mu.Unlock()
	for lead {
		r.mu.Lock()
		batch := r.waiting
		r.waiting = nil
		r.running = len(batch) > 0
		r.mu.Unlock()
		if len(batch) == 0 {
			break
		}
		err := reap()
		for _, w := range batch {
			w <- err
		}
	}
	return <-done
}

func (d *Datapath) deleteMarked() error {
	return d.host.do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(reapGroup)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}
