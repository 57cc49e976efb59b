package netdp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/netns"
)

// A pod's link is a point-to-point veth pair without a bridge: the pod has a
// /32 address and sends everything to podGateway, which is no machine but the
// host end's hardware address in a permanent neighbour entry. No ARP is ever
// asked, so both ends of every pair can have the same two hardware addresses.
//
// Of IPv6 the same holds: the gateway is the link-local address that belongs to
// that hardware address, and no neighbour is ever solicited.
var (
	podGateway  = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	podGateway6 = netip.MustParseAddr("fe80::73:68ff:fe6f:6101")
	hostMAC     = net.HardwareAddr{0x02, 0x73, 0x68, 0x6f, 0x61, 0x01}
	podMAC      = net.HardwareAddr{0x02, 0x73, 0x68, 0x6f, 0x61, 0x02}
)

const (
	podLinkName = "eth0"
	// hostLinkPrefix marks the links that are ours.
	hostLinkPrefix = "shl"
	// fallbackMTU is Ethernet's, for a host without an uplink.
	fallbackMTU = 1500
	// podRouteMetric puts our route for the whole range behind any other.
	podRouteMetric = 4_278_198_272
)

// hostLinkName fits the kernel's limit of 15 bytes.
func hostLinkName(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return hostLinkPrefix + hex.EncodeToString(sum[:6])
}

// podComplete tells whether everything of a pod is there. The map entry is
// simply written again: it is missing when the map has a new layout, and a pod
// that runs must not lose its namespace over that.
func (d *Datapath) podComplete(rec podRecord) (bool, error) {
	if !netns.Pinned(d.pods.records.netns(rec.UID)) {
		return false, nil
	}
	link, err := d.nl.LinkByName(hostLinkName(rec.UID))
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find link %s: %w", hostLinkName(rec.UID), err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 || link.Attrs().Group == reapGroup {
		return false, nil
	}
	return true, firstError(d.putPod(rec, link.Attrs().Index), d.setPodCaller(rec))
}

func (d *Datapath) putPod(rec podRecord, index int) error {
	entry := bpf.DatapathPod{Ifindex: uint32(index)}
	for _, addr := range rec.addresses() {
		if err := full("write pod", d.maps[bpf.DatapathMapPods].Put(wireAddr(addr), entry)); err != nil {
			return err
		}
	}
	return nil
}

// makePod makes the namespace, unless one is given, and the link and publishes the address.
func (d *Datapath) makePod(rec podRecord, given, path string) error {
	mtu := d.podMTU()
	return netns.Create(given, path, func(ns *os.File) error {
		name := hostLinkName(rec.UID)
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{
				Name: name, Alias: rec.Namespace + "/" + rec.Name, HardwareAddr: hostMAC,
				MTU: mtu.link, TxQLen: -1, NumTxQueues: 1, NumRxQueues: 1,
			},
			PeerName: podLinkName, PeerHardwareAddr: podMAC, PeerMTU: uint32(mtu.link),
			PeerNamespace: netlink.NsFd(ns.Fd()), PeerNumTxQueues: 1, PeerNumRxQueues: 1,
		}
		if err := d.nl.LinkAdd(veth); err != nil {
			return fmt.Errorf("create link %s: %w", name, err)
		}
		link, err := d.raiseHostSide(name, rec.Address6.IsValid())
		if err != nil {
			return err
		}
		if err := setUpPodSide(rec, mtu); err != nil {
			return err
		}
		if err := firstError(d.setCaller(namespace{}, rec.addresses()), d.routeToPod(rec, link.Attrs().Index)); err != nil {
			return err
		}
		return d.awaitLink(link.Attrs().Index)
	})
}

// setUpPodSide runs on a thread inside the pod's namespace.
func setUpPodSide(rec podRecord, mtu podMTU) error {
	addr := rec.Address
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket in pod: %w", err)
	}
	defer nl.Close()
	if err := preparePodIPv6(rec.Address6.IsValid()); err != nil {
		return err
	}
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback in pod: %w", err)
	}
	eth, err := nl.LinkByName(podLinkName)
	if err != nil {
		return fmt.Errorf("find link in pod: %w", err)
	}
	index := eth.Attrs().Index
	return firstError(
		named("raise loopback in pod", nl.LinkSetUp(lo)),
		named("set pod address", nl.AddrAdd(eth, &netlink.Addr{IPNet: hostNet(addr)})),
		named("raise link in pod", nl.LinkSetUp(eth)),
		named("set gateway in pod", nl.NeighAdd(permanentNeighbour(index, podGateway, hostMAC))),
		named("route to gateway in pod", nl.RouteAdd(&netlink.Route{
			LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: hostNet(podGateway), Src: addr.AsSlice(),
		})),
		named("set default route in pod", nl.RouteAdd(podDefaultRoute(index, addr, mtu))),
		setPodIPv6(nl, eth, rec.Address6, mtu),
	)
}

func podDefaultRoute(index int, addr netip.Addr, mtu podMTU) *netlink.Route {
	r := &netlink.Route{LinkIndex: index, Gw: podGateway.AsSlice(), Src: addr.AsSlice()}
	if addr.Is6() {
		r.Gw = podGateway6.AsSlice()
		mtu.route = max(mtu.route6, minIPv6MTU)
	}
	if mtu.route < mtu.link {
		r.MTU = mtu.route
	}
	return r
}

// raiseHostSide raises the host's end, with the program on it before the first
// packet.
func (d *Datapath) raiseHostSide(name string, v6 bool) (netlink.Link, error) {
	link, err := d.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	err = d.host.do(func() error { return writeSettings(podLinkSettings(name, v6)) })
	return link, firstError(
		err,
		d.filterPodLink(link.Attrs().Index),
		named("raise link "+name, d.nl.LinkSetUp(link)),
	)
}

func (d *Datapath) routeToPod(rec podRecord, index int) error {
	for _, addr := range rec.addresses() {
		route := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: hostNet(addr)}
		if src := d.routeSource(addr.Is6()); src.IsValid() {
			route.Src = src.AsSlice()
		}
		err := firstError(
			named("set neighbour of pod", d.nl.NeighSet(permanentNeighbour(index, addr, podMAC))),
			named("route to pod", d.nl.RouteReplace(route)),
		)
		if err != nil {
			return err
		}
	}
	return d.putPod(rec, index)
}

// routeSource is the address that the host's own traffic to pods comes from,
// not valid when it has none that may be.
func (d *Datapath) routeSource(v6 bool) netip.Addr {
	src, ok := d.nodeIP(v6)
	if !ok && v6 {
		src = d.own.Load().standIn
	}
	if !src.IsValid() || !d.ownsAddress(src) {
		return netip.Addr{}
	}
	return src
}

// A link whose other end was raised after it starts sending when a kernel
// worker has noticed; until then it drops. Asking hurries that on Linux 6.8 and
// later, elsewhere it takes a few asks.
const (
	linkUpTries = 1000
	linkUpPause = time.Millisecond
)

func (d *Datapath) awaitLink(index int) error {
	for range linkUpTries {
		link, err := d.nl.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("find link: %w", err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(linkUpPause)
	}
	return errors.New("raise link: it has no carrier after a second")
}

// clearPod removes everything of a pod but its record and address. What is not
// there is no error.
func (d *Datapath) clearPod(rec podRecord) error {
	var errs []error
	for _, addr := range rec.addresses() {
		errs = append(errs, ignoreMissing("delete pod", d.maps[bpf.DatapathMapPods].Delete(wireAddr(addr))))
	}
	return errors.Join(
		d.dropPodCaller(rec),
		errors.Join(errs...),
		d.deleteLink(hostLinkName(rec.UID)),
		netns.Unpin(d.pods.records.netns(rec.UID)),
	)
}

// ownsAddress tells whether the host has the address, as the source of a route
// must be.
func (d *Datapath) ownsAddress(addr netip.Addr) bool {
	addrs, err := d.nl.AddrList(nil, familyOf(addr))
	if err != nil {
		return false
	}
	for _, a := range addrs {
		// The kernel takes no address that it is still asking about (RFC 4862).
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == addr && a.Flags&unix.IFA_F_TENTATIVE == 0 {
			return true
		}
	}
	return false
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func permanentNeighbour(index int, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: familyOf(ip), State: netlink.NUD_PERMANENT,
		IP: ip.AsSlice(), HardwareAddr: mac,
	}
}

// podRoute makes packets to a pod that is not there fail at once instead of
// leaving by the default route.
func podRoute(p netip.Prefix) *netlink.Route {
	return &netlink.Route{Type: unix.RTN_UNREACHABLE, Priority: podRouteMetric, Dst: ipNet(p)}
}

// podRanges are those of this host.
func (d *Datapath) podRanges() []netip.Prefix {
	if d.opts.PodCIDR6.IsValid() {
		return []netip.Prefix{d.opts.PodCIDR, d.opts.PodCIDR6}
	}
	return []netip.Prefix{d.opts.PodCIDR}
}

func (d *Datapath) addPodRoutes() error {
	for _, p := range d.podRanges() {
		if err := d.nl.RouteReplace(podRoute(p)); err != nil {
			return fmt.Errorf("add route for pod range %s: %w", p, err)
		}
	}
	return nil
}

func (d *Datapath) removePodRoutes() error {
	var errs []error
	for _, p := range d.podRanges() {
		if err := d.nl.RouteDel(podRoute(p)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route for pod range %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// firstError is the one that explains the others: its arguments have all been
// tried, each after the one before.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
