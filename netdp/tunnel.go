package netdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// One VXLAN device (RFC 7348) serves all hosts: where a packet goes is said by
// its route, or by a program, and not by the device. It asks for no neighbours:
// every frame goes out with whatever hardware address, and the overlay program
// at the other end takes it. So a host more costs a route, and no entry of the
// kernel's limited neighbour table.
const (
	tunnelDevice = "shoal-vxlan"
	// vxlanOverhead is what one packet needs more: IPv4 20, UDP 8, VXLAN 8,
	// Ethernet 14.
	vxlanOverhead = 50
	// looseRPFilter accepts a source that is reached by another interface:
	// what a host sends in its own name comes by the tunnel, and goes back
	// beside it.
	looseRPFilter = "2"
)

// tunnelAddress is there because the loose filter refuses everything on a
// device without an address. Its scope is the host, so nothing is ever sent
// from it.
var tunnelAddress = netip.AddrFrom4([4]byte{169, 254, 115, 1})

// ensureTunnel makes the device when a host needs it. 0: none does.
func (d *Datapath) ensureTunnel(routes []HostRoute) (index int, err error) {
	mtu := 0
	for _, r := range routes {
		if r.Path == PathVXLAN && (mtu == 0 || r.MTU < mtu) {
			mtu = r.MTU
		}
	}
	if mtu == 0 {
		return 0, nil
	}
	link, err := d.findTunnel()
	if err != nil {
		return 0, err
	}
	if link == nil {
		if link, err = d.makeTunnel(mtu); err != nil {
			return 0, err
		}
	}
	if link.Attrs().MTU != mtu {
		if err := d.nl.LinkSetMTU(link, mtu); err != nil {
			return 0, fmt.Errorf("set MTU of %s: %w", tunnelDevice, err)
		}
	}
	// After the MTU: with a smaller one there is nothing to switch.
	v6 := slices.ContainsFunc(routes, func(r HostRoute) bool { return r.Path == PathVXLAN && r.PodCIDR.Addr().Is6() })
	if v6 {
		if err := d.host.do(func() error { return setLinkIPv6(tunnelDevice, true) }); err != nil {
			return 0, err
		}
	}
	return link.Attrs().Index, nil
}

// findTunnel returns our device if it is as it should be, and removes one that
// an earlier daemon made with other options.
func (d *Datapath) findTunnel() (netlink.Link, error) {
	link, err := d.nl.LinkByName(tunnelDevice)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", tunnelDevice, err)
	}
	v, ok := link.(*netlink.Vxlan)
	if ok && v.FlowBased && v.Port == int(d.opts.VXLANPort) && v.RawFlags&unix.IFF_UP != 0 && v.RawFlags&unix.IFF_NOARP != 0 {
		return link, nil
	}
	if err := d.nl.LinkDel(link); err != nil {
		return nil, fmt.Errorf("remove outdated %s: %w", tunnelDevice, err)
	}
	return nil, nil
}

func (d *Datapath) makeTunnel(mtu int) (netlink.Link, error) {
	v := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: tunnelDevice, MTU: mtu, TxQLen: -1},
		FlowBased: true, Port: int(d.opts.VXLANPort), Learning: false,
	}
	if err := d.nl.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("make VXLAN device %s (CONFIG_VXLAN; modprobe vxlan): %w", tunnelDevice, err)
	}
	link, err := d.nl.LinkByName(tunnelDevice)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", tunnelDevice, err)
	}
	err = firstError(
		d.host.do(func() error {
			return firstError(
				writeSysctl("1", "net/ipv6/conf", tunnelDevice, "disable_ipv6"),
				writeSettings(tunnelSettings(tunnelDevice)),
			)
		}),
		named("set ARP off on "+tunnelDevice, d.nl.LinkSetARPOff(link)),
		named("set address of "+tunnelDevice, d.nl.AddrAdd(link, &netlink.Addr{
			IPNet: hostNet(tunnelAddress), Scope: unix.RT_SCOPE_HOST,
		})),
		d.filterTunnel(link.Attrs().Index),
		d.raiseTunnel(link),
	)
	if err != nil {
		return nil, errors.Join(err, d.nl.LinkDel(link))
	}
	return link, nil
}

func (d *Datapath) raiseTunnel(link netlink.Link) error {
	err := d.nl.LinkSetUp(link)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("raise %s: UDP port %d is taken; find who has it with `ss -ulnp` and `ip -d link`, or choose another port, the same on all hosts: %w",
			tunnelDevice, d.opts.VXLANPort, err)
	}
	return named("raise "+tunnelDevice, err)
}

// filterTunnel attaches the overlay programs; they go with the device.
func (d *Datapath) filterTunnel(index int) error {
	return firstError(
		d.filterDevice(index, netlink.HANDLE_MIN_INGRESS, "overlay_ingress", d.progs[bpf.DatapathProgOverlayIngress]),
		d.filterDevice(index, netlink.HANDLE_MIN_EGRESS, "overlay_egress", d.progs[bpf.DatapathProgOverlayEgress]),
	)
}

// adoptTunnel puts this daemon's programs in the place of an earlier one's, and
// keeps to that one's MTU until the hosts are known.
func (d *Datapath) adoptTunnel() error {
	link, err := d.findTunnel()
	if err != nil || link == nil {
		return err
	}
	d.hosts.mu.Lock()
	if d.hosts.pathMTU == 0 {
		d.hosts.pathMTU, d.hosts.pathMTU6 = link.Attrs().MTU, link.Attrs().MTU
	}
	d.hosts.mu.Unlock()
	return d.filterTunnel(link.Attrs().Index)
}

func (d *Datapath) removeTunnel() error {
	link, err := d.nl.LinkByName(tunnelDevice)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	return firstError(named("find "+tunnelDevice, err), func() error {
		if err != nil {
			return nil
		}
		return named("remove "+tunnelDevice, d.nl.LinkDel(link))
	}())
}

// setRangeMaps tells the programs how pods of other hosts are reached, and the
// addresses of hosts: packets of the tunnel come from these. links are those
// whose numbers are known.
func (d *Datapath) setRangeMaps(hosts []Host, routes []HostRoute, links map[string]int) error {
	ranges := d.bareRanges()
	peers := map[[4]uint32]uint32{}
	for i, r := range routes {
		if r.Path == PathWireGuard || r.noKey {
			addWireRanges(ranges, hosts[i], r, links[wireDevice])
		}
		if r.Path == PathUnreachable {
			continue
		}
		// A host we reach directly may not see it so and use the tunnel. IPv6
		// addresses are no ends of tunnels, but calls are handed over to them.
		var number uint32 // of the host: its first address
		for _, a := range slices.Backward(unicast(hosts[i].Addresses, false)) {
			number = wireAddr(a)[3]
		}
		for _, v6 := range []bool{false, true} {
			for _, a := range unicast(hosts[i].Addresses, v6) {
				peers[wireAddr(a)] = number
			}
		}
		if r.Path == PathWireGuard {
			continue
		}
		index, err := d.linkIndexOf(r.Device, links)
		if err != nil {
			continue // its route fails too, and says so
		}
		to := rangeBy(r.Via, index)
		if r.Path == PathDirect {
			to.Flags = rangeDirect
		}
		ranges[rangeKey(r.PodCIDR)] = to
		if r.Path != PathVXLAN {
			continue
		}
		// On the wire a pod's address would mean nothing to the routers between,
		// while the host itself calls other hosts plainly.
		to.Flags = rangeHost
		for _, a := range unicast(hosts[i].Addresses, r.PodCIDR.Addr().Is6()) {
			ranges[rangeKey(netip.PrefixFrom(a, a.BitLen()))] = to
		}
	}
	return errors.Join(
		syncMap("tunnel peers", d.maps[bpf.DatapathMapTunnelPeers], peers),
		syncMap("pod ranges", d.maps[bpf.DatapathMapRanges], ranges),
	)
}

// rangeBy is a range of the host at an address, by a link.
func rangeBy(host netip.Addr, index int) bpf.DatapathRange {
	to := bpf.DatapathRange{Family: unix.AF_INET6, Host: wireAddr(host), Ifindex: uint32(index)}
	if host.Is4() {
		to.Family, to.Host = unix.AF_INET, [4]uint32{to.Host[3]}
	}
	return to
}

// syncMap makes a map equal to want, writing only what differs: what is new
// first.
func syncMap[K, V comparable](what string, m *ebpf.Map, want map[K]V) error {
	have := map[K]V{}
	if err := readMap(m, func(k K, v V) { have[k] = v }); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	for k, v := range want {
		if old, ok := have[k]; ok && old == v {
			continue
		}
		if err := full("write "+what, m.Put(k, v)); err != nil {
			return err
		}
	}
	for k := range have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := ignoreMissing("delete from "+what, m.Delete(k)); err != nil {
			return err
		}
	}
	return nil
}

// tunnelEncap is the part of a route that says where its packets' tunnel ends
// (include/uapi/linux/lwtunnel.h, LWTUNNEL_ENCAP_IP).
type tunnelEncap struct {
	id       uint64
	dst, src netip.Addr
}

const (
	lwtunnelEncapIP = 2
	lwtunnelIPID    = 1
	lwtunnelIPDst   = 2
	lwtunnelIPSrc   = 3
	lwtunnelIPTTL   = 4
	tunnelTTL       = 64
)

func (*tunnelEncap) Type() int           { return lwtunnelEncapIP }
func (*tunnelEncap) Decode([]byte) error { return errors.New("decode tunnel route: not supported") }
func (e *tunnelEncap) String() string    { return fmt.Sprintf("id %d dst %s", e.id, e.dst) }

func (e *tunnelEncap) Equal(x netlink.Encap) bool {
	o, ok := x.(*tunnelEncap)
	return ok && *o == *e
}

func (e *tunnelEncap) Encode() ([]byte, error) {
	out := netlinkAttr(lwtunnelIPID, binary.BigEndian.AppendUint64(nil, e.id))
	out = append(out, netlinkAttr(lwtunnelIPDst, e.dst.AsSlice())...)
	if e.src.IsValid() {
		out = append(out, netlinkAttr(lwtunnelIPSrc, e.src.AsSlice())...)
	}
	return append(out, netlinkAttr(lwtunnelIPTTL, []byte{tunnelTTL})...), nil
}

// netlinkAttr is one attribute, padded to four bytes.
func netlinkAttr(kind uint16, value []byte) []byte {
	out := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, value...)
	return append(out, slices.Repeat([]byte{0}, -len(value)&3)...)
}
