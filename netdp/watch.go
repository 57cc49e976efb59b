package netdp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// watched is what matters of an interface: routes by it go with it.
type watched struct {
	running bool
	mtu     int
}

// WatchLinks calls changed whenever an interface to other machines comes, goes,
// or changes its state, MTU or addresses: the kernel removes routes then, and
// SetHosts has to be called again. Meanwhile network policy follows the host's
// addresses. It returns when ctx ends.
func (d *Datapath) WatchLinks(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	failed := make(chan error, 2) // one for each
	report := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	err := d.host.do(func() error { // the sockets stay in the namespace they are made in
		return errors.Join(
			netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: report}),
			netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: report}),
		)
	})
	defer func() { // the readers end when their sockets close
		close(done)
		if err == nil {
			for range links {
			}
			for range addrs {
			}
		}
	}()
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	d.renewNodePeers() // what changed before anybody watched
	state, has := map[string]watched{}, map[addrOfLink]int{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("watch interfaces: %w", err)
		case u, ok := <-links:
			if !ok {
				return errors.New("watch interfaces: the kernel ended it")
			}
			if linkChanged(state, u) {
				changed()
			}
		case u, ok := <-addrs:
			if !ok {
				return errors.New("watch addresses: the kernel ended it")
			}
			if !addrChanged(has, u) {
				continue
			}
			_, ok = nodePeer(u.LinkAddress.IP)
			if ok {
				d.renewNodePeers()
			}
			if ok || u.LinkAddress.IP.To4() != nil {
				changed()
			}
		}
	}
}

// linkChanged forgets about our own interfaces: pods come and go.
func linkChanged(state map[string]watched, u netlink.LinkUpdate) bool {
	name := u.Attrs().Name
	if strings.HasPrefix(name, hostLinkPrefix) || name == tunnelDevice {
		return false
	}
	now := watched{running: u.Attrs().Flags&net.FlagRunning != 0, mtu: u.Attrs().MTU}
	before, known := state[name]
	state[name] = now
	return !known || before != now
}

// addrOfLink is an address of an interface.
type addrOfLink struct {
	link int
	addr netip.Addr
}

// addrChanged leaves out what is told again with each router's advertisement. has are
// the flags of what was told of.
func addrChanged(has map[addrOfLink]int, u netlink.AddrUpdate) bool {
	addr, ok := addrOf(u.LinkAddress.IP)
	if !ok {
		return false
	}
	key := addrOfLink{u.LinkIndex, addr}
	if !u.NewAddr {
		delete(has, key)
		return true
	}
	before, known := has[key]
	has[key] = u.Flags
	return !known || before != u.Flags
}
