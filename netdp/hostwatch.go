package netdp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// hostWatch is what the kernel said of the host's network.
type hostWatch struct {
	filters atomic.Bool   // some filter or qdisc has changed
	state   chan struct{} // one token: a route, address, link or setting of ours may be lost
	ended   chan struct{} // closed when nobody listens any more
}

// hostGroups have what hostWatch needs to hear.
var hostGroups = []uint{
	unix.RTNLGRP_TC, unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_NETCONF,
	unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_NETCONF,
}

// watchHost listens until ctx ends. Most messages are of no loss, and wake nobody.
func (d *Datapath) watchHost(ctx context.Context) (*hostWatch, error) {
	w := &hostWatch{state: make(chan struct{}, 1), ended: make(chan struct{})}
	var socket *nl.NetlinkSocket
	err := d.host.do(func() (err error) { // the socket stays in the namespace it is made in
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, hostGroups...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch the host's network: %w", err)
	}
	w.lost() // before anybody listened
	stop := context.AfterFunc(ctx, socket.Close)
	go func() {
		defer close(w.ended)
		defer stop()
		for {
			messages, _, err := socket.Receive()
			switch {
			case errors.Is(err, unix.ENOBUFS): // some were missed: all is looked at
				w.filters.Store(true)
				w.lost()
				continue
			case err != nil:
				return // it was closed; the rounds are left
			}
			for _, m := range messages {
				if isFilterMessage(m.Header.Type) {
					w.filters.Store(true)
				} else if tellsLoss(m, d.podRanges()) {
					w.lost()
				}
			}
		}
	}()
	return w, nil
}

func (w *hostWatch) lost() {
	select {
	case w.state <- struct{}{}:
	default:
	}
}

func isFilterMessage(kind uint16) bool {
	return kind >= unix.RTM_NEWQDISC && kind <= unix.RTM_GETTFILTER || kind == unix.RTM_NEWCHAIN || kind == unix.RTM_DELCHAIN
}

// tellsLoss reports a message after which something that shoal made may be missing:
// routes to its pods, any address, a link of its own that is down, a setting that is
// off. The kernel says nothing of routes that go with a link or an address.
func tellsLoss(m syscall.NetlinkMessage, pods []netip.Prefix) bool {
	replaced := m.Header.Type == unix.RTM_NEWROUTE && m.Header.Flags&unix.NLM_F_REPLACE != 0
	switch {
	case m.Header.Type == unix.RTM_DELROUTE || replaced:
		return isRouteIn(m.Data, pods)
	case m.Header.Type == unix.RTM_DELADDR:
		return true
	case m.Header.Type == unix.RTM_NEWLINK:
		return isOwnLinkDown(m.Data)
	case m.Header.Type == unix.RTM_NEWNETCONF:
		return isSettingOff(m.Data)
	}
	return false
}

func isRouteIn(data []byte, pods []netip.Prefix) bool {
	if len(data) < unix.SizeofRtMsg {
		return false
	}
	msg := nl.DeserializeRtMsg(data)
	dst, ok := netip.AddrFromSlice(attribute(data[unix.SizeofRtMsg:], unix.RTA_DST))
	if !ok || msg.Flags&unix.RTM_F_CLONED != 0 {
		return false
	}
	p := netip.PrefixFrom(dst, int(msg.Dst_len))
	for _, own := range pods {
		if own.Contains(dst) && p.Bits() >= own.Bits() {
			return true
		}
	}
	return false
}

func isOwnLinkDown(data []byte) bool {
	if len(data) < unix.SizeofIfInfomsg {
		return false
	}
	name := string(attribute(data[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME)) // it ends with a zero byte
	return strings.HasPrefix(name, hostLinkPrefix) && nl.DeserializeIfInfomsg(data).Flags&unix.IFF_UP == 0
}

// Attributes of struct netconfmsg (include/uapi/linux/netconf.h).
const (
	netconfForwarding = 2
	netconfRPFilter   = 3
)

// isSettingOff: that an interface does not forward, or has a filter of sources. A new
// one says so too.
func isSettingOff(data []byte) bool {
	const header = 4 // the family, padded
	if len(data) < header {
		return false
	}
	forwarding := attribute(data[header:], netconfForwarding)
	return len(forwarding) == 4 && binary.NativeEndian.Uint32(forwarding) == 0 || attribute(data[header:], netconfRPFilter) != nil
}

// attribute is the value of the first attribute of a kind; nil: there is none.
func attribute(data []byte, kind uint16) []byte {
	for len(data) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(data))
		if size < unix.SizeofRtAttr || size > len(data) {
			return nil
		}
		if binary.NativeEndian.Uint16(data[2:])&^unix.NLA_F_NESTED == kind {
			return data[unix.SizeofRtAttr:size]
		}
		data = data[min(len(data), (size+3)&^3):]
	}
	return nil
}
