package netdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// lossKind is what was lost, in words for one and for several.
type lossKind struct{ one, many string }

var (
	lostLink    = lossKind{"the link of pod %s was set down", "the links of %d pods were set down: %s"}
	lostRoute   = lossKind{"the route to pod %s was removed", "the routes to %d pods were removed: %s"}
	lostRange   = lossKind{"the route for %s was removed", "the routes for %d ranges of addresses were removed: %s"}
	lostAddress = lossKind{"address %s was removed", "%d addresses were removed: %s"}
	lostSetting = lossKind{"%s was changed", "%d kernel settings were changed: %s"}
)

// loss is one thing that shoal made beside programs and is not there.
type loss struct {
	kind lossKind
	name string
	put  func() error // makes it again
}

// restored are the losses of one kind in one round.
type restored struct {
	names, failed []string
	err           error // the first failure
}

// state looks at links of pods, routes, addresses and settings of /proc/sys. What goes
// together is told together: one command may take a thing away from every pod.
// Settings come first, as a link whose IPv6 is off takes no routes of it.
func (r *repairs) state() {
	r.restored = map[lossKind]*restored{}
	r.settings()
	r.ranges()
	r.addresses()
	r.eachPod(r.wayToPod)
	for _, kind := range []lossKind{lostSetting, lostRange, lostAddress, lostLink, lostRoute} {
		done := r.restored[kind]
		if done == nil {
			continue
		}
		if len(done.names) > 0 {
			r.add(nil, "%s", kind.say(done.names))
		}
		if len(done.failed) > 0 {
			r.add(done.err, "%s", kind.say(done.failed))
		}
	}
}

func (k lossKind) say(names []string) string {
	const most = 5
	if len(names) == 1 {
		return fmt.Sprintf(k.one, names[0])
	}
	slices.Sort(names)
	list := strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf(k.many, len(names), list)
}

// restore puts one thing back, unless it is too early to.
func (r *repairs) restore(l loss) {
	what, now := fmt.Sprintf(l.kind.one, l.name), time.Now()
	if r.d.contests.held(what, now) {
		r.held = true
		return
	}
	done := r.restored[l.kind]
	if done == nil {
		done = &restored{}
		r.restored[l.kind] = done
	}
	if err := l.put(); err != nil {
		done.failed = append(done.failed, l.name)
		if done.err == nil {
			done.err = err
		}
		return
	}
	r.d.contests.put(what, now)
	done.names = append(done.names, l.name)
}

// lookFailed tells of what could not be looked at.
func (r *repairs) lookFailed(what string, err error) {
	if err != nil {
		r.add(err, "%s could not be looked at", what)
	}
}

// settings are those of all links that shoal made or sends by.
func (r *repairs) settings() {
	d := r.d
	var all []setting
	for _, name := range d.uplinks {
		all = append(all, forwardingSetting(name))
	}
	if d.hosts.setting.TryLock() { // else devices are being made
		all = append(all, slices.Concat(tunnelSettings(tunnelDevice), tunnelSettings(wireDevice))...)
		d.hosts.setting.Unlock()
	} else {
		r.held = true
	}
	r.eachPod(func(rec podRecord) {
		all = append(all, podLinkSettings(hostLinkName(rec.UID), rec.Address6.IsValid())...)
	})
	ipv6 := setting{"1", []string{"net/ipv6/conf/all/forwarding"}}
	changed := map[string]loss{}
	r.lookFailed("kernel settings", d.host.do(func() error { // one thread for all
		for _, s := range all {
			if now, ok := s.differs(); ok {
				changed[s.name()] = loss{lostSetting, s.name() + " (to " + now + ")", func() error { return d.host.do(s.write) }}
			}
		}
		if now, ok := ipv6.differs(); ok && d.opts.PodCIDR6.IsValid() {
			changed[ipv6.name()] = loss{lostSetting, ipv6.name() + " (to " + now + ")", d.forwardIPv6}
		}
		return nil
	}))
	for _, l := range changed {
		r.restore(l)
	}
}

// ranges are the routes of whole ranges, and of what the daemon serves.
func (r *repairs) ranges() {
	want := make([]*netlink.Route, 0, 3)
	for _, p := range r.d.podRanges() {
		want = append(want, podRoute(p))
	}
	r.d.serving.Lock()
	defer r.d.serving.Unlock()
	if r.d.serves {
		want = append(want, silence(r.d.opts.PodCIDR.Addr()))
	}
	for _, route := range want {
		there, err := r.d.hasRoute(route)
		r.lookFailed("the route for "+route.Dst.String(), err)
		if err == nil && !there {
			r.restore(loss{lostRange, route.Dst.String(), func() error { return r.d.nl.RouteReplace(route) }})
		}
	}
}

// addresses are those of links that the host has: for what the daemon serves, in place
// of one of IPv6, and for reverse-path filters.
func (r *repairs) addresses() {
	d := r.d
	d.serving.Lock()
	if d.serves {
		r.address("lo", serverAddr(d.opts.PodCIDR.Addr()))
	}
	d.serving.Unlock()
	if standIn := d.own.Load().standIn; standIn.IsValid() {
		r.address("lo", standInAddr(standIn))
	}
	if !d.hosts.setting.TryLock() { // devices are being made
		r.held = true
		return
	}
	defer d.hosts.setting.Unlock()
	for name, addr := range map[string]netip.Addr{tunnelDevice: tunnelAddress, wireDevice: wireAddress} {
		r.address(name, serverAddr(addr))
	}
}

func (r *repairs) address(device string, want *netlink.Addr) {
	link, err := r.d.nl.LinkByName(device)
	if err != nil {
		return // there is none, or SetHosts makes it again
	}
	have, err := r.d.nl.AddrList(link, nl.GetIPFamily(want.IP))
	r.lookFailed("addresses of "+device, err)
	if err != nil || slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IP.Equal(want.IP) }) {
		return
	}
	r.restore(loss{lostAddress, want.IP.String() + " of " + device, func() error { return r.d.nl.AddrReplace(link, want) }})
}

// wayToPod is the host's end of a pod's link, and the routes by it.
func (r *repairs) wayToPod(rec podRecord) {
	link, err := r.d.nl.LinkByName(hostLinkName(rec.UID))
	if err != nil || link.Attrs().Group == reapGroup {
		return // the next Attach makes the pod's network anew
	}
	index, name := link.Attrs().Index, rec.Namespace+"/"+rec.Name
	if link.Attrs().Flags&net.FlagUp == 0 { // its routes and neighbours are gone too
		r.restore(loss{lostLink, name, func() error {
			return firstError(r.d.nl.LinkSetUp(link), r.d.routeToPod(rec, index))
		}})
		return
	}
	for _, addr := range rec.addresses() {
		there, err := r.d.leadsTo(addr, index)
		r.lookFailed("the route to pod "+name, err)
		if err == nil && !there {
			r.restore(loss{lostRoute, name + " (" + addr.String() + ")", func() error { return r.d.routeToPod(rec, index) }})
			return
		}
	}
}

// leadsTo tells whether the main table has a route to one address by a link. What the
// kernel would do is asked first: that takes no time, however many routes there are.
// Routing rules may have it do something else.
func (d *Datapath) leadsTo(addr netip.Addr, link int) (bool, error) {
	routes, err := d.nl.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err == nil && len(routes) > 0 && isRouteBy(routes[0], addr, link) {
		return true, nil
	}
	return d.hasRoute(&netlink.Route{Type: unix.RTN_UNICAST, Dst: hostNet(addr), LinkIndex: link})
}

func isRouteBy(r netlink.Route, addr netip.Addr, link int) bool {
	if r.Dst == nil || r.LinkIndex != link {
		return false
	}
	bits, _ := r.Dst.Mask.Size()
	return bits == addr.BitLen() && r.Dst.IP.Equal(addr.AsSlice())
}

// hasRoute tells whether the main table has a route of want's type, range, metric and,
// if that is not 0, link. The kernel leaves out routes of other types and links (Linux
// 4.20 or later), of which a router may have a million.
func (d *Datapath) hasRoute(want *netlink.Route) (found bool, err error) {
	family := netlink.FAMILY_V4
	if want.Dst.IP.To4() == nil {
		family = netlink.FAMILY_V6
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	msg := &nl.RtMsg{}
	msg.Family, msg.Table, msg.Type = uint8(family), unix.RT_TABLE_MAIN, uint8(want.Type)
	req.AddData(msg)
	if want.LinkIndex != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(want.LinkIndex))))
	}
	err = d.host.do(func() error {
		socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer socket.Close()
		err = firstError(
			socket.SetReceiveTimeout(&nl.SocketTimeoutTv),
			unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
		)
		if err != nil {
			return err
		}
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
		return req.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE, func(m []byte) bool {
			found = found || isRoute(m, want)
			return true
		})
	})
	if errors.Is(err, nl.ErrDumpInterrupted) { // routes changed meanwhile, and it may be there: a later round tells
		return true, nil
	}
	return found, named("list routes", err)
}

func isRoute(m []byte, want *netlink.Route) bool {
	if len(m) < unix.SizeofRtMsg {
		return false
	}
	number := func(kind uint16) int {
		if v := attribute(m[unix.SizeofRtMsg:], kind); len(v) == 4 {
			return int(binary.NativeEndian.Uint32(v))
		}
		return 0
	}
	msg := nl.DeserializeRtMsg(m)
	bits, _ := want.Dst.Mask.Size()
	dst := attribute(m[unix.SizeofRtMsg:], unix.RTA_DST)
	return int(msg.Dst_len) == bits && want.Dst.IP.Equal(dst) && int(msg.Type) == want.Type && msg.Table == unix.RT_TABLE_MAIN &&
		(want.LinkIndex == 0 || number(unix.RTA_OIF) == want.LinkIndex) &&
		(want.Priority == 0 || number(unix.RTA_PRIORITY) == want.Priority)
}
