package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/api"
	"shoal/api/pki"
)

// ipv6Off is what Config.IPv6 is in a cell of IPv4 alone.
const ipv6Off = "off"

// checkIPv6 accepts what Config.IPv6 may be.
func checkIPv6(text string) error {
	if text == "" || text == ipv6Off {
		return nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Errorf("--ipv6 %q: want %s or a range, as in fd12:3456:789a::/48", text, ipv6Off)
	}
	if err := api.CheckCellIPv6(p); err != nil {
		return fmt.Errorf("--ipv6: %w", err)
	}
	return nil
}

// ownIPv6 is the range of IPv6 of a cell that was given none: it comes from the
// cell's certificate authority.
func (p *peer) ownIPv6() (string, error) {
	ca, err := os.ReadFile(pki.FilesIn(p.pkiDir()).CA)
	if err != nil {
		return "", fmt.Errorf("read certificate authority: %w", err)
	}
	cell, err := api.CellIPv6(ca)
	return cell.String(), err
}

// nodeIPs are the addresses of this host: the one for pods and other hosts, and
// with IPv6 the one that the same interface has of it. was is what they were before.
func (p *peer) nodeIPs(was []netip.Addr) []netip.Addr {
	ip := netip.MustParseAddr(p.config.NodeIP)
	out := []netip.Addr{ip}
	if !p.ipv6.IsValid() {
		return out
	}
	if six := ipv6Beside(ip, was); six.IsValid() {
		out = append(out, six)
	}
	return out
}

// passing are flags of addresses that come and go (RFC 8981), or are not yet or
// no longer the host's.
const passing = unix.IFA_F_TEMPORARY | unix.IFA_F_TENTATIVE | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED

// ipv6Beside finds a lasting global address on the interface that has ip.
func ipv6Beside(ip netip.Addr, was []netip.Addr) netip.Addr {
	all, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range all {
		have, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || have != ip {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err != nil {
			return netip.Addr{}
		}
		sixes, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return netip.Addr{}
		}
		return lasting(sixes, was)
	}
	return netip.Addr{}
}

// lasting is the first lasting global address, not valid if there is none. One that was
// this host's stays so until it is gone: connections end with it.
func lasting(sixes []netlink.Addr, was []netip.Addr) (first netip.Addr) {
	for _, s := range sixes {
		six, ok := netip.AddrFromSlice(s.IP)
		switch {
		case !ok || !six.Is6() || !six.IsGlobalUnicast() || s.Scope != unix.RT_SCOPE_UNIVERSE:
		case slices.Contains(was, six) && s.Flags&unix.IFA_F_DADFAILED == 0:
			return six
		case !first.IsValid() && s.Flags&passing == 0:
			first = six
		}
	}
	return first
}

// nodeIPsInterval is how often it is looked whether this host has another IPv6 address.
const nodeIPsInterval = 5 * time.Second

// followNodeIPs has the datapath and the Node know the IPv6 address that routers tell
// this host of late, and another one when that is gone.
func (p *peer) followNodeIPs(ctx context.Context) error {
	if !p.ipv6.IsValid() {
		return nil
	}
	tick := time.NewTicker(nodeIPsInterval)
	defer tick.Stop()
	said, failed := p.datapath.NodeIPs(), ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := p.nodeIPs(said)
		if slices.Equal(now, said) {
			continue
		}
		if err := p.datapath.SetNodeIPs(now); err != nil {
			if failed != err.Error() {
				failed = err.Error()
				p.log.Warn("this host's addresses have changed, and the datapath does not follow; it is tried again", "addresses", now, "error", err)
			}
			continue
		}
		p.log.Info("this host's addresses have changed", "were", said, "are", now)
		said, failed = now, ""
		p.agent.LookAtNode()
	}
}

// agentPodCIDRs are the ranges of this host's pods as its Node shows them.
func (p *peer) agentPodCIDRs() []string {
	var out []string
	for _, r := range p.datapath.PodCIDRs() {
		out = append(out, r.String())
	}
	return out
}

// podCIDR6 is this host's part of the cell's range, not valid without IPv6.
func (p *peer) podCIDR6() netip.Prefix {
	if !p.ipv6.IsValid() {
		return netip.Prefix{}
	}
	return api.PodCIDR6(p.ipv6, p.podCIDR)
}

// serviceCIDR6 is where the cell's IPv6 cluster IPs come from.
func (p *peer) serviceCIDR6() netip.Prefix {
	if !p.ipv6.IsValid() {
		return netip.Prefix{}
	}
	return api.ServiceCIDR6(p.ipv6)
}

// ownRanges are those of the cell's services and pods.
func (p *peer) ownRanges() []netip.Prefix {
	out := []netip.Prefix{api.DefaultServiceCIDR, api.PodRange}
	if p.ipv6.IsValid() {
		out = append(out, p.serviceCIDR6(), api.PodRange6(p.ipv6))
	}
	return out
}
