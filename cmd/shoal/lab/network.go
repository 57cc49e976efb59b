//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// labRange is where labs take their subnets from: RFC 2544 keeps it for
// measuring networks, so that no site routes it. It is also outside the ranges
// of pods and services.
var labRange = netip.MustParsePrefix("198.18.0.0/15")

const (
	subnetBits = 24
	// machineHost is the machine's own place in a subnet; peer N's is N.
	machineHost = 254
	// hostLink is a host's link within it.
	hostLink = "eth0"
	// linksWithin bounds the wait for links of a dead network namespace to go;
	// the kernel takes namespaces down one after the other.
	linksWithin = 30 * time.Second
)

// Names of links; Linux allows 15 bytes.
func (l *Lab) bridge() string       { return "shoal-" + l.id }
func (l *Lab) port(n int) string    { return "shoal-" + l.id + "-" + strconv.Itoa(n) }
func (l *Lab) slowTap(n int) string { return "slow-" + l.id + "-" + strconv.Itoa(n) }

// isLink tells the lab's links from all others.
func (l *Lab) isLink(name string) bool {
	return name == l.bridge() || strings.HasPrefix(name, l.port(0)[:len(l.port(0))-1]) || strings.HasPrefix(name, l.slowTap(0)[:len(l.slowTap(0))-1])
}

// hardware is the address of a peer's eth0. Every frame of a peer carries it as
// its source, whatever pod sent it, and cuts go by it.
func (l *Lab) hardware(n int) net.HardwareAddr {
	var id [3]byte
	_, _ = fmt.Sscanf(l.id, "%02x%02x%02x", &id[0], &id[1], &id[2])
	return net.HardwareAddr{0x02, 0x5a, id[0], id[1], id[2], byte(n)} // locally administered
}

// freeSubnet finds a subnet that nothing on this machine routes.
func freeSubnet(id string) (netip.Prefix, error) {
	taken, err := routed()
	if err != nil {
		return netip.Prefix{}, err
	}
	first, _ := strconv.ParseUint(id, 16, 32)
	const subnets = 1 << (subnetBits - 15)
	base := labRange.Addr().As4()
	for i := range uint64(subnets) {
		k := (first + i) % subnets
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1] + byte(k>>8), byte(k), 0}), subnetBits)
		free := true
		for _, t := range taken {
			free = free && !t.Overlaps(subnet)
		}
		if free {
			return subnet, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("every subnet of %s is routed on this machine already; give a free one with --subnet", labRange)
}

// routed lists what this machine routes or has addresses in, but for the
// default route.
func routed() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var prefixes []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if bits, _ := r.Dst.Mask.Size(); ok && bits > 0 {
			prefixes = append(prefixes, netip.PrefixFrom(addr, bits))
		}
	}
	return prefixes, nil
}

// checkSubnet accepts a subnet a person gave.
func checkSubnet(subnet netip.Prefix) error {
	if !subnet.Addr().Is4() || subnet.Bits() != subnetBits || subnet != subnet.Masked() {
		return fmt.Errorf("--subnet %s: want an IPv4 subnet of the form A.B.C.0/%d", subnet, subnetBits)
	}
	taken, err := routed()
	if err != nil {
		return err
	}
	for _, t := range taken {
		if t.Overlaps(subnet) {
			return fmt.Errorf("--subnet %s: this machine routes %s already; see `ip route`", subnet, t)
		}
	}
	return nil
}

// address is the one with the last byte n.
func (s *state) address(n int) netip.Addr {
	bytes := s.Subnet.Addr().As4()
	bytes[3] = byte(n)
	return netip.AddrFrom4(bytes)
}

// addBridge makes the lab's bridge with the machine's address on it.
func (l *Lab) addBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.bridge()
	// An address of its own, or the bridge would change it with its ports.
	attrs.HardwareAddr = l.hardware(machineHost)
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge %s: %w", attrs.Name, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(l.state.address(machineHost))}
	if err := netlink.AddrAdd(bridge, addr); err != nil {
		return fmt.Errorf("give bridge %s an address: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set bridge %s up: %w", attrs.Name, err)
	}
	return nil
}

func ipNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(subnetBits, 32)}
}

// plug gives a host its link: a pair with one end on the bridge.
func (l *Lab) plug(p *peer) error {
	bridge, err := netlink.LinkByName(l.bridge())
	if err != nil {
		return fmt.Errorf("find bridge %s: %w; take the lab down with `sudo shoal lab down`", l.bridge(), err)
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.Init.Pid))
	if err != nil {
		return fmt.Errorf("open network of %s: %w", p.Name, err)
	}
	defer func() { _ = file.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.port(p.Number)
	attrs.MasterIndex = bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: hostLink, PeerHardwareAddr: l.hardware(p.Number), PeerNamespace: netlink.NsFd(int(file.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make link of %s: %w", p.Name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set link of %s up: %w", p.Name, err)
	}
	handle, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network of %s: %w", p.Name, err)
	}
	defer handle.Close()
	if err := configure(handle, p.Address, l.state.address(machineHost)); err != nil {
		return fmt.Errorf("configure network of %s: %w", p.Name, err)
	}
	return nil
}

// configure sets a host's own links up, with the machine as its way out.
func configure(handle *netlink.Handle, addr, gateway netip.Addr) error {
	for _, name := range []string{"lo", hostLink} {
		link, err := handle.LinkByName(name)
		if err != nil {
			return err
		}
		if name == hostLink {
			if err := handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
				return err
			}
		}
		if err := handle.LinkSetUp(link); err != nil {
			return err
		}
	}
	return handle.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()})
}

// unplug takes a link away and waits until it is gone; no link is no error.
func (l *Lab) unplug(ctx context.Context, gone func(name string) bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), linksWithin)
	defer cancel()
	for {
		links, err := netlink.LinkList()
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list links: %w", err)
		}
		left := 0
		for _, link := range links {
			if !gone(link.Attrs().Name) {
				continue
			}
			left++
			// The kernel may be removing it too, with the namespace of its other end.
			if delErr := netlink.LinkDel(link); delErr != nil && !errors.As(delErr, new(netlink.LinkNotFoundError)) {
				err = errors.Join(err, delErr)
			}
		}
		if left == 0 && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove the lab's links: %w", errors.Join(ctx.Err(), err))
		case <-time.After(poll):
		}
	}
}
