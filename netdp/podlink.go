package netdp

import (
	"crypto/sha256"
	"encoding/binary"
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
)

// A pod's link is a point-to-point veth pair without a bridge: the pod has a
// /32 address and sends everything to podGateway, which is no machine but the
// host end's hardware address in a permanent neighbour entry. No ARP is ever
// asked, so both ends of every pair can have the same two hardware addresses.
var (
	podGateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	hostMAC    = net.HardwareAddr{0x02, 0x73, 0x68, 0x6f, 0x61, 0x01}
	podMAC     = net.HardwareAddr{0x02, 0x73, 0x68, 0x6f, 0x61, 0x02}
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
	if !namespacePinned(d.pods.records.netns(rec.UID)) {
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
	return full("write pod", d.maps[bpf.DatapathMapPods].Put(podKey(rec.Address), entry))
}

func podKey(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

// makePod makes the namespace, unless one is given, and the link and publishes the address.
func (d *Datapath) makePod(rec podRecord, given, path string) error {
	mtu := d.podMTU()
	return createNamespace(given, path, func(ns *os.File) error {
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
		link, err := d.raiseHostSide(name)
		if err != nil {
			return err
		}
		if err := setUpPodSide(rec.Address, mtu); err != nil {
			return err
		}
		if err := firstError(d.setCaller(namespace{}, []netip.Addr{rec.Address}), d.routeToPod(rec, link.Attrs().Index)); err != nil {
			return err
		}
		return d.awaitLink(link.Attrs().Index)
	})
}

// setUpPodSide runs on a thread inside the pod's namespace.
func setUpPodSide(addr netip.Addr, mtu podMTU) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket in pod: %w", err)
	}
	defer nl.Close()
	if err := writeSysctl("1", "net/ipv6/conf", podLinkName, "disable_ipv6"); err != nil {
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
	)
}

func podDefaultRoute(index int, addr netip.Addr, mtu podMTU) *netlink.Route {
	r := &netlink.Route{LinkIndex: index, Gw: podGateway.AsSlice(), Src: addr.AsSlice()}
	if mtu.route < mtu.link {
		r.MTU = mtu.route
	}
	return r
}

// raiseHostSide raises the host's end, with the program on it before the first
// packet.
func (d *Datapath) raiseHostSide(name string) (netlink.Link, error) {
	link, err := d.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	err = d.host.do(func() error {
		return firstError(
			writeSysctl("1", "net/ipv6/conf", name, "disable_ipv6"),
			// Packets from the pod go on to other machines. Only this
			// interface forwards; the host's own setting is left alone.
			writeSysctl("1", "net/ipv4/conf", name, "forwarding"),
		)
	})
	return link, firstError(
		err,
		d.filterPodLink(link.Attrs().Index),
		named("raise link "+name, d.nl.LinkSetUp(link)),
	)
}

func (d *Datapath) routeToPod(rec podRecord, index int) error {
	route := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: hostNet(rec.Address)}
	if src, ok := d.opts.nodeIPv4(); ok && d.ownsAddress(src) {
		route.Src = src.AsSlice()
	}
	return firstError(
		named("set neighbour of pod", d.nl.NeighAdd(permanentNeighbour(index, rec.Address, podMAC))),
		named("route to pod", d.nl.RouteReplace(route)),
		d.putPod(rec, index),
	)
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
	return errors.Join(
		d.dropPodCaller(rec),
		ignoreMissing("delete pod", d.maps[bpf.DatapathMapPods].Delete(podKey(rec.Address))),
		d.deleteLink(hostLinkName(rec.UID)),
		unpinNamespace(d.pods.records.netns(rec.UID)),
	)
}

// ownsAddress tells whether the host has the address, as the source of a route
// must be.
func (d *Datapath) ownsAddress(addr netip.Addr) bool {
	addrs, err := d.nl.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == addr {
			return true
		}
	}
	return false
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func permanentNeighbour(index int, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: ip.AsSlice(), HardwareAddr: mac,
	}
}

// podRoute makes packets to a pod that is not there fail at once instead of
// leaving by the default route.
func (d *Datapath) podRoute() *netlink.Route {
	p := d.opts.PodCIDR
	return &netlink.Route{
		Type: unix.RTN_UNREACHABLE, Priority: podRouteMetric,
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)},
	}
}

func (d *Datapath) addPodRoute() error {
	if err := d.nl.RouteReplace(d.podRoute()); err != nil {
		return fmt.Errorf("add route for pod range %s: %w", d.opts.PodCIDR, err)
	}
	return nil
}

func (d *Datapath) removePodRoute() error {
	if err := d.nl.RouteDel(d.podRoute()); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route for pod range %s: %w", d.opts.PodCIDR, err)
	}
	return nil
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
