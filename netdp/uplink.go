package netdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/podfile"
)

// Where a filter of ours sits among those of a device.
const (
	filterPriority = 1
	filterHandle   = 1
	filterPrefix   = "shoal_"
)

// findUplinks names the interfaces to other machines.
func (d *Datapath) findUplinks() error {
	if len(d.opts.Uplinks) > 0 {
		d.uplinks = slices.Clone(d.opts.Uplinks)
		return nil
	}
	for _, ip := range d.NodeIPs() {
		name, err := d.linkHolding(ip)
		if err != nil {
			return err
		}
		if name != "" && !slices.Contains(d.uplinks, name) {
			d.uplinks = append(d.uplinks, name)
		}
	}
	if len(d.uplinks) > 0 {
		return nil
	}
	// The host keeps its address on loopback and announces it by a routing
	// protocol.
	var err error
	d.uplinks, err = d.defaultRouteLinks()
	return err
}

// defaultRouteLinks names the interfaces of the default routes.
func (d *Datapath) defaultRouteLinks() (names []string, err error) {
	var routes []netlink.Route
	for _, family := range d.families() {
		if family == netlink.FAMILY_V6 && !d.opts.PodCIDR6.IsValid() {
			continue
		}
		some, err := d.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		routes = append(routes, some...)
	}
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || r.LinkIndex == 0 || r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		l, err := d.nl.LinkByIndex(r.LinkIndex)
		if err != nil {
			return names, fmt.Errorf("find interface of default route: %w", err)
		}
		if name := l.Attrs().Name; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// linkHolding is empty when only loopback or no interface has the address.
func (d *Datapath) linkHolding(ip netip.Addr) (string, error) {
	addrs, err := d.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if have, ok := netip.AddrFromSlice(a.IP); !ok || have.Unmap() != ip || ip.IsLoopback() {
			continue
		}
		l, err := d.nl.LinkByIndex(a.LinkIndex)
		if err != nil {
			return "", fmt.Errorf("find interface of %s: %w", ip, err)
		}
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			return l.Attrs().Name, nil
		}
	}
	return "", nil
}

// attachUplinks puts the uplink programs on each uplink, and in the place of an earlier
// daemon's wherever else these are: it found such interfaces by routes and hosts, which
// this one learns of later.
func (d *Datapath) attachUplinks() error {
	earlier, err := d.earlierUplinks()
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(d.uplinks, earlier) {
		if err := d.attachUplinkPair(name); err != nil {
			return err
		}
	}
	return nil
}

// earlierUplinks are interfaces that have an earlier daemon's programs and are none of
// this one's uplinks. It runs with attaching held.
func (d *Datapath) earlierUplinks() (out []string, err error) {
	for _, name := range d.savedUplinks() {
		if slices.Contains(d.uplinks, name) {
			continue
		}
		dev, err := d.nl.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue // it is gone, and what was on it
		}
		if err != nil {
			return nil, fmt.Errorf("find uplink %s: %w", name, err)
		}
		has, err := d.hasUplinkProgram(dev)
		if err != nil {
			return nil, fmt.Errorf("look for programs of uplink %s: %w", name, err)
		}
		if has {
			out = append(out, name)
		}
	}
	return out, nil
}

// hasUplinkProgram tells whether a program of an uplink is on the device, an earlier
// daemon's or this one's.
func (d *Datapath) hasUplinkProgram(dev netlink.Link) (bool, error) {
	for _, side := range uplinkSides {
		l, err := link.LoadPinnedLink(d.pins.link(side.program+"-"+dev.Attrs().Name), nil)
		if err == nil {
			info, err := l.Info()
			_ = l.Close()
			if err != nil {
				return false, fmt.Errorf("inspect link: %w", err)
			}
			// Else it is of an older device of this name.
			if tcx := info.TCX(); tcx != nil && int(tcx.Ifindex) == dev.Attrs().Index {
				return true, nil
			}
		} else if !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("open link: %w", err)
		}
		filters, err := d.nl.FilterList(dev, side.parent)
		if err != nil {
			return false, fmt.Errorf("list filters: %w", err)
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterPrefix) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (d *Datapath) attachUplinkPair(name string) error {
	return d.host.do(func() error {
		var errs []error
		for _, side := range uplinkSides {
			errs = append(errs, d.attachUplink(name, side.program, d.progs[side.program], side.attach))
		}
		return firstError(append(errs, d.enableForwarding(name))...)
	})
}

// uplinkSides are the programs of an uplink, and where each is as a filter.
var uplinkSides = []struct {
	program string
	attach  ebpf.AttachType
	parent  uint32
}{
	{bpf.DatapathProgUplinkIngress, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{bpf.DatapathProgUplinkEgress, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// addUplink serves one more interface: another host was found behind it.
func (d *Datapath) addUplink(name string) error {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	if slices.Contains(d.uplinks, name) {
		return nil
	}
	if d.await == 0 { // else it is attached with all others
		if err := d.attachUplinkPair(name); err != nil {
			return err
		}
	}
	d.uplinks = append(d.uplinks, name)
	return nil
}

func (d *Datapath) uplinkNames() []string {
	d.attaching.Lock()
	defer d.attaching.Unlock()
	return slices.Clone(d.uplinks)
}

// enableForwarding lets packets from other machines on to pods. It remembers
// what was set before, for Remove. It runs in the host's namespace.
func (d *Datapath) enableForwarding(device string) error {
	saved := d.savedForwarding(device)
	if _, err := os.Stat(saved); errors.Is(err, os.ErrNotExist) {
		was, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", device, "forwarding"))
		if err != nil {
			return fmt.Errorf("read forwarding of %s: %w", device, err)
		}
		if err := podfile.Replace(saved, was); err != nil {
			return fmt.Errorf("save forwarding of %s: %w", device, err)
		}
	}
	return forwardingSetting(device).write()
}

func (d *Datapath) savedForwarding(device string) string {
	return filepath.Join(d.opts.StateDir, "forwarding-"+device)
}

// removeUplinks takes filters off the uplinks (links go with their pins) and
// sets their forwarding back.
func (d *Datapath) removeUplinks() error {
	var errs []error
	for _, name := range d.everyUplink() {
		errs = append(errs, d.removeFilters(name), d.host.do(func() error {
			was, err := os.ReadFile(d.savedForwarding(name))
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read saved forwarding of %s: %w", name, err)
			}
			return writeSysctl(strings.TrimSpace(string(was)), "net/ipv4/conf", name, "forwarding")
		}))
	}
	return errors.Join(errs...)
}

// everyUplink has also those that were found behind hosts, by this daemon or an
// earlier one.
func (d *Datapath) everyUplink() []string {
	out := d.uplinkNames()
	for _, name := range d.savedUplinks() {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// savedUplinks are the interfaces that were ever served since Remove.
func (d *Datapath) savedUplinks() []string {
	paths, err := filepath.Glob(d.savedForwarding("*"))
	if err != nil {
		return nil // only for a bad pattern
	}
	for i, path := range paths {
		paths[i] = strings.TrimPrefix(path, d.savedForwarding(""))
	}
	return paths
}

func (d *Datapath) removeFilters(device string) error {
	dev, err := d.nl.LinkByName(device)
	if err != nil {
		return nil // the interface is gone, with all that was on it
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := d.nl.FilterList(dev, parent)
		if err != nil {
			return fmt.Errorf("list filters of %s: %w", device, err)
		}
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterPrefix) {
				if err := d.nl.FilterDel(f); err != nil {
					return fmt.Errorf("remove filter of %s: %w", device, err)
				}
			}
		}
	}
	return nil
}

// attachUplink runs on a thread in the host's namespace.
func (d *Datapath) attachUplink(device, program string, prog *ebpf.Program, where ebpf.AttachType) error {
	path := d.pins.link(program + "-" + device)
	dev, err := d.nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find uplink %s: %w", device, err)
	}
	if len(d.set.carries) > 0 {
		if err := d.attachBefore(path, dev.Attrs().Index, prog, where); err == nil {
			return nil
		} // else the link is of a device that is gone, or there is none
	}
	if err = d.replaceInLink(path, prog); err == nil {
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace %s on %s: %w", program, device, err)
	}
	if d.opts.noTCX {
		return d.filterUplink(dev.Attrs(), program, prog, where)
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: dev.Attrs().Index, Program: prog, Attach: where, Anchor: link.Head(),
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return d.filterUplink(dev.Attrs(), program, prog, where)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", program, device, err)
	}
	if err := d.pinAndHold(l, path); err != nil {
		return fmt.Errorf("attach %s to %s: %w", program, device, err)
	}
	return nil
}

// filterUplink is the way before Linux 6.6, which has no tcx: a filter, which
// stays with the device and is replaced in one step as well.
func (d *Datapath) filterUplink(dev *netlink.LinkAttrs, name string, prog *ebpf.Program, where ebpf.AttachType) error {
	d.filtered[dev.Name] = true
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if where == ebpf.AttachTCXEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return d.filterDevice(dev.Index, parent, name, prog)
}

// filterPodLink attaches the pod programs to the host's end of a pod's link. They
// are filters and no tcx links: attaching by tcx waits for an RCU grace period
// under the lock of all network configuration, 15 ms for each pod against
// 20 µs, and a filter goes with its device, so nothing can be left pinned.
func (d *Datapath) filterPodLink(index int) error {
	return firstError(
		d.filterDevice(index, netlink.HANDLE_MIN_INGRESS, "pod_egress", d.progs[bpf.DatapathProgPodEgress]),
		d.filterDevice(index, netlink.HANDLE_MIN_EGRESS, "pod_ingress", d.progs[bpf.DatapathProgPodIngress]),
	)
}

func (d *Datapath) filterDevice(index int, parent uint32, name string, prog *ebpf.Program) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := d.nl.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact qdisc (Linux 4.5 or later, CONFIG_NET_SCH_INGRESS): %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: parent, Handle: filterHandle,
			Protocol: unix.ETH_P_ALL, Priority: filterPriority,
		},
		Fd: prog.FD(), Name: filterPrefix + name, DirectAction: true,
	}
	if err := d.nl.FilterReplace(filter); err != nil {
		return fmt.Errorf("attach %s: %w", name, err)
	}
	return nil
}

// dropStrayPods forgets addresses of pods that have no record: the daemon was
// killed between the two steps of a Detach, or its state directory is new.
func (d *Datapath) dropStrayPods() error {
	known := map[[4]uint32]bool{}
	for _, e := range d.pods.byUID {
		for _, addr := range e.record.addresses() {
			known[wireAddr(addr)] = true
		}
	}
	var key [4]uint32
	var value bpf.DatapathPod
	var stray [][4]uint32
	m := d.maps[bpf.DatapathMapPods]
	it := m.Iterate()
	for it.Next(&key, &value) {
		if !known[key] {
			stray = append(stray, key)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list pods in kernel: %w", err)
	}
	for _, key := range stray {
		if err := ignoreMissing("delete pod", m.Delete(key)); err != nil {
			return err
		}
	}
	return nil
}
