package netdp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/podfile"
)

// minIPv6MTU is the least that a link of IPv6 carries (RFC 8200 section 5); the
// kernel switches IPv6 off on a link below it.
const minIPv6MTU = 1280

// checkIPv6 leaves pods IPv4 alone on a host that cannot give them IPv6, and
// says why: a cell need not have IPv6 on every host.
func (d *Datapath) checkIPv6() error {
	var why string
	err := d.host.do(func() error {
		off, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
		switch {
		case errors.Is(err, os.ErrNotExist):
			why = "this kernel has no IPv6 (CONFIG_IPV6; boot without ipv6.disable=1)"
		case err != nil:
			return fmt.Errorf("read whether IPv6 is off: %w", err)
		}
		d.kernelHasIPv6 = err == nil
		if err == nil && strings.TrimSpace(string(off)) != "0" {
			why = "net.ipv6.conf.all.disable_ipv6 is set (sysctl -w net.ipv6.conf.all.disable_ipv6=0)"
		}
		return nil
	})
	if why != "" && d.opts.PodCIDR6.IsValid() {
		d.log.Warn("pods of this host get no IPv6 addresses", "why", why, "range", d.opts.PodCIDR6.String())
		d.opts.PodCIDR6 = netip.Prefix{}
	}
	return err
}

// PodCIDRs are the ranges that pods of this host get addresses from, IPv4 first.
func (d *Datapath) PodCIDRs() []netip.Prefix { return d.podRanges() }

// PodCIDR6 is that of IPv6, not valid when pods have IPv4 only.
func (d *Datapath) PodCIDR6() netip.Prefix { return d.opts.PodCIDR6 }

// savedIPv6 is what forwardIPv6 found, for Remove.
type savedIPv6 struct {
	Forwarding string   `json:"forwarding"`
	AcceptRA   []string `json:"acceptRA"` // interfaces that had accept_ra 1
}

func (d *Datapath) savedIPv6Path() string { return filepath.Join(d.opts.StateDir, "ipv6-forwarding") }

// forwardIPv6 lets the host pass on packets of pods. IPv6 knows this setting for
// a host as a whole only, and a host that forwards heeds no router advertisements
// unless accept_ra is 2 (Documentation/networking/ip-sysctl.rst): interfaces that
// get their routes by these must keep them. It is called again with the hosts,
// since others write these settings too.
func (d *Datapath) forwardIPv6() error {
	if !d.opts.PodCIDR6.IsValid() {
		return nil
	}
	return d.host.do(func() error {
		const all = "/proc/sys/net/ipv6/conf/all/forwarding"
		was, err := os.ReadFile(all)
		if err != nil {
			return fmt.Errorf("read forwarding of IPv6: %w", err)
		}
		saved := savedIPv6{Forwarding: strings.TrimSpace(string(was))}
		if saved.Forwarding == "1" {
			return nil
		}
		if saved.AcceptRA, err = heedingRouters(); err != nil {
			return err
		}
		if _, err := os.Stat(d.savedIPv6Path()); errors.Is(err, os.ErrNotExist) {
			data, err := json.Marshal(saved)
			if err != nil {
				return fmt.Errorf("save forwarding of IPv6: %w", err)
			}
			if err := podfile.Replace(d.savedIPv6Path(), data); err != nil {
				return fmt.Errorf("save forwarding of IPv6: %w", err)
			}
		}
		for _, device := range saved.AcceptRA {
			if err := writeSysctl("2", "net/ipv6/conf", device, "accept_ra"); err != nil {
				return err
			}
		}
		return writeSysctl("1", "net/ipv6/conf/all/forwarding")
	})
}

// heedingRouters names the interfaces whose accept_ra is 1.
func heedingRouters() ([]string, error) {
	const dir = "/proc/sys/net/ipv6/conf"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list interfaces of IPv6: %w", err)
	}
	var out []string
	for _, e := range entries {
		if slices.Contains([]string{"all", "default", "lo"}, e.Name()) {
			continue
		}
		value, err := os.ReadFile(filepath.Join(dir, e.Name(), "accept_ra"))
		if err == nil && strings.TrimSpace(string(value)) == "1" {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// restoreIPv6 sets back what forwardIPv6 changed.
func (d *Datapath) restoreIPv6() error {
	data, err := os.ReadFile(d.savedIPv6Path())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read saved forwarding of IPv6: %w", err)
	}
	var saved savedIPv6
	if err := json.Unmarshal(data, &saved); err != nil {
		return fmt.Errorf("read saved forwarding of IPv6: %w", err)
	}
	return d.host.do(func() error {
		errs := []error{writeSysctl(saved.Forwarding, "net/ipv6/conf/all/forwarding")}
		for _, device := range saved.AcceptRA {
			errs = append(errs, writeSysctl("1", "net/ipv6/conf", device, "accept_ra"))
		}
		return errors.Join(errs...)
	})
}

// setLinkIPv6 runs in the host's namespace, before the link is raised.
func setLinkIPv6(name string, on bool) error { return writeSettings(linkIPv6Settings(name, on)) }

// addrGenNone is IN6_ADDR_GEN_MODE_NONE (include/uapi/linux/if_link.h).
const addrGenNone = "1"

// preparePodIPv6 runs in the pod's namespace before its link is raised. There is
// nobody else on the link who could have its addresses, so nobody is asked.
func preparePodIPv6(on bool) error {
	if !on {
		return writeSysctl("1", "net/ipv6/conf", podLinkName, "disable_ipv6")
	}
	return firstError(
		writeSysctl("0", "net/ipv6/conf", podLinkName, "accept_dad"),
		writeSysctl("0", "net/ipv6/conf", podLinkName, "accept_ra"),
		writeSysctl("0", "net/ipv6/conf", podLinkName, "disable_ipv6"),
	)
}

// setPodIPv6 gives the pod's raised link its IPv6 address and the way out.
func setPodIPv6(nl *netlink.Handle, eth netlink.Link, addr netip.Addr, mtu podMTU) error {
	if !addr.IsValid() {
		return nil
	}
	index := eth.Attrs().Index
	return firstError(
		named("set IPv6 address of pod", nl.AddrAdd(eth, &netlink.Addr{IPNet: hostNet(addr), Flags: unix.IFA_F_NODAD})),
		named("set IPv6 gateway in pod", nl.NeighAdd(permanentNeighbour(index, podGateway6, hostMAC))),
		named("set IPv6 default route in pod", nl.RouteAdd(podDefaultRoute(index, addr, mtu))),
	)
}
