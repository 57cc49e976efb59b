package netdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
	"shoal/netdp/wireguard"
)

// With encryption one WireGuard device serves all hosts, whether they share a link
// or not: WireGuard is a tunnel already, so there is no VXLAN in it. It carries
// what pods of two hosts say to each other, and pods and hosts. Programs
// and routes lead into it as into the VXLAN device. Each packet's source is one that
// WireGuard allows the host that sent it, so no address can be forged by another.
const (
	wireDevice = "shoal-wg"
	// DefaultWireGuardPort is the next after those of gossip and records.
	DefaultWireGuardPort = 7948
)

// wireAddress is for the loose reverse-path filter, as tunnelAddress.
var wireAddress = netip.AddrFrom4([4]byte{169, 254, 115, 2})

// SetEncryption switches encryption on, with this host's key, or off, with the
// zero value. What is on its way in the clear is dropped from now on; the ways
// change with the next SetHosts.
func (d *Datapath) SetEncryption(key wireguard.PrivateKey) error {
	d.hosts.setting.Lock()
	defer d.hosts.setting.Unlock()
	if err := d.setEncrypted(key); err != nil {
		return fmt.Errorf("set encryption: %w", err)
	}
	return nil
}

// Encryption is this host's public key, zero where nothing is encrypted.
func (d *Datapath) Encryption() wireguard.Key {
	d.hosts.mu.Lock()
	defer d.hosts.mu.Unlock()
	return d.hosts.key.Public()
}

// KeyToTell is this host's public key while its device is there; else zero, as
// without encryption: others drop what they cannot encrypt.
func (d *Datapath) KeyToTell() wireguard.Key {
	d.hosts.mu.Lock()
	defer d.hosts.mu.Unlock()
	return d.hosts.toTell
}

// EncryptedBy is what encrypts on this host, "the kernel" or "wireguard-go"; empty:
// nothing does.
func (d *Datapath) EncryptedBy() string {
	d.hosts.mu.Lock()
	defer d.hosts.mu.Unlock()
	return d.hosts.by
}

func wiredBy(device *wireguard.Device) string {
	if device.InKernel() {
		return "the kernel"
	}
	return "wireguard-go"
}

// setEncrypted has the programs know which addresses are pods' before they are
// told that these are to be encrypted. The ways in the clear that were are gone
// when it returns.
func (d *Datapath) setEncrypted(key wireguard.PrivateKey) error {
	value := uint32(0)
	if !key.IsZero() {
		value = 1
	}
	for at, to := range d.bareRangesWith(key) {
		if err := full("write pod ranges", d.maps[bpf.DatapathMapRanges].Put(at, to)); err != nil {
			return err
		}
	}
	if err := d.encrypted.Set(value); err != nil {
		return fmt.Errorf("tell the programs: %w", err)
	}
	if !key.IsZero() {
		if err := d.forgetPlainRanges(); err != nil {
			return err
		}
	}
	d.hosts.mu.Lock()
	d.hosts.key = key
	d.hosts.mu.Unlock()
	return nil
}

// forgetPlainRanges takes away the ways to other hosts that this or an earlier
// daemon set without encryption.
func (d *Datapath) forgetPlainRanges() error {
	m := d.maps[bpf.DatapathMapRanges]
	var plain []bpf.DatapathRangeKey
	err := readMap(m, func(at bpf.DatapathRangeKey, to bpf.DatapathRange) {
		if to.Flags&rangeWire == 0 {
			plain = append(plain, at)
		}
	})
	if err != nil {
		return fmt.Errorf("read pod ranges: %w", err)
	}
	for _, at := range plain {
		if err := ignoreMissing("delete pod range", m.Delete(at)); err != nil {
			return err
		}
	}
	return nil
}

// startEncryption is the part of Open. It comes before any program is attached.
func (d *Datapath) startEncryption() error {
	if d.opts.WireGuardKey.IsZero() {
		return nil
	}
	return d.setEncrypted(d.opts.WireGuardKey)
}

// bareRanges is that of the whole cell, by no device, while the cell encrypts:
// without another host's own range, which is smaller, there is no way to its pods.
// In this host's own the host itself may have addresses, such as ServerAddress.
func (d *Datapath) bareRanges() map[bpf.DatapathRangeKey]bpf.DatapathRange {
	return d.bareRangesWith(d.hosts.key)
}

func (d *Datapath) bareRangesWith(key wireguard.PrivateKey) map[bpf.DatapathRangeKey]bpf.DatapathRange {
	out := map[bpf.DatapathRangeKey]bpf.DatapathRange{}
	if key.IsZero() {
		return out
	}
	for _, p := range []netip.Prefix{d.opts.CellPodCIDR, d.opts.CellPodCIDR6} {
		if p.IsValid() {
			out[rangeKey(p.Masked())] = bpf.DatapathRange{Flags: rangeWire}
		}
	}
	for _, p := range []netip.Prefix{d.opts.PodCIDR, d.opts.PodCIDR6} {
		if p.IsValid() {
			out[rangeKey(p.Masked())] = bpf.DatapathRange{Flags: rangeWire | rangeOwn}
		}
	}
	return out
}

// encryptedRanges are those of the whole cell while it encrypts. Programs of the
// host know no other way to them when the device went with its daemon, not even by
// links that no program of ours is at.
func (d *Datapath) encryptedRanges() []netip.Prefix {
	if d.hosts.key.IsZero() {
		return nil
	}
	return slices.DeleteFunc([]netip.Prefix{d.opts.CellPodCIDR, d.opts.CellPodCIDR6}, func(p netip.Prefix) bool {
		return !p.IsValid() || p.Addr().Is6() && !d.kernelHasIPv6
	})
}

// addWireRanges leads to the pods of a host, and its pods' calls to the host
// itself, by the device that encrypts; 0: not yet.
func addWireRanges(ranges map[bpf.DatapathRangeKey]bpf.DatapathRange, h Host, r HostRoute, wire int) {
	index := 0
	if r.Path == PathWireGuard {
		index = wire
	}
	to := bpf.DatapathRange{Ifindex: uint32(index), Flags: rangeWire}
	pods := to
	if r.onLink.IsValid() {
		pods = rangeBy(r.onLink, index)
		pods.Flags = rangeWire
	}
	ranges[rangeKey(r.PodCIDR)] = pods
	to.Flags |= rangeHost
	for _, a := range unicast(h.Addresses, r.PodCIDR.Addr().Is6()) {
		ranges[rangeKey(netip.PrefixFrom(a, a.BitLen()))] = to
	}
}

// ensureWire makes the device when encryption is on, also without any host: others
// are told a key only while somebody listens. 0: there is none. It is called by
// SetHosts only.
func (d *Datapath) ensureWire(routes []HostRoute) (index int, err error) {
	key := d.hosts.key
	if key.IsZero() {
		return 0, d.removeWire()
	}
	mtu := 0
	for _, r := range routes {
		if r.Path == PathWireGuard && (mtu == 0 || r.MTU < mtu) {
			mtu = r.MTU
		}
	}
	if mtu == 0 {
		mtu = fallbackMTU - wireguard.Overhead
	}
	if d.wire != nil && (!d.wire.Alive() || d.wireKey != key.Public()) {
		if err := d.closeWire(); err != nil {
			return 0, err
		}
	}
	if d.wire == nil {
		if err := d.makeWire(mtu); err != nil {
			return 0, err
		}
	}
	if err := d.wire.SetMTU(mtu); err != nil {
		return 0, err
	}
	v6 := slices.ContainsFunc(routes, func(r HostRoute) bool { return r.Path == PathWireGuard && r.PodCIDR.Addr().Is6() })
	if v6 {
		if err := d.host.do(func() error { return setLinkIPv6(wireDevice, true) }); err != nil {
			return 0, err
		}
	}
	link, err := d.nl.LinkByName(wireDevice)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", wireDevice, err)
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 { // somebody set it down
		if err := d.nl.LinkSetUp(link); err != nil {
			return 0, fmt.Errorf("raise %s: %w", wireDevice, err)
		}
	}
	return link.Attrs().Index, nil
}

func (d *Datapath) makeWire(mtu int) error {
	device, err := wireguard.Open(wireguard.Options{
		Name: wireDevice, Key: d.hosts.key, Port: d.opts.WireGuardPort, MTU: mtu,
		InHost: d.host.do, Links: d.nl, Logger: d.log, UserSpace: d.opts.userWireGuard,
	})
	if err != nil {
		return err
	}
	link, err := d.nl.LinkByName(wireDevice)
	if err != nil {
		return errors.Join(fmt.Errorf("find %s: %w", wireDevice, err), device.Close())
	}
	addr := &netlink.Addr{IPNet: hostNet(wireAddress), Scope: unix.RT_SCOPE_HOST}
	err = firstError(
		d.host.do(func() error {
			return firstError(
				writeSysctl("1", "net/ipv6/conf", wireDevice, "disable_ipv6"),
				writeSettings(tunnelSettings(wireDevice)),
			)
		}),
		named("set address of "+wireDevice, d.nl.AddrReplace(link, addr)),
		d.filterWire(link.Attrs().Index),
	)
	if err != nil {
		return errors.Join(err, device.Close())
	}
	d.wire, d.wireKey = device, d.hosts.key.Public()
	d.log.Info("what pods of two hosts say is encrypted", "by", wiredBy(device), "device", wireDevice, "key", d.wireKey.String())
	return nil
}

// filterWire attaches the programs; they go with the device.
func (d *Datapath) filterWire(index int) error {
	return firstError(
		d.filterDevice(index, netlink.HANDLE_MIN_INGRESS, bpf.DatapathProgWireIngress, d.progs[bpf.DatapathProgWireIngress]),
		d.filterDevice(index, netlink.HANDLE_MIN_EGRESS, bpf.DatapathProgWireEgress, d.progs[bpf.DatapathProgWireEgress]),
	)
}

// adoptWire puts this daemon's programs in the place of an earlier one's at a
// device of the kernel's. Others have ended with their daemon.
func (d *Datapath) adoptWire() error {
	link, err := d.nl.LinkByName(wireDevice)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", wireDevice, err)
	}
	return d.filterWire(link.Attrs().Index)
}

// setWirePeers tells the device who is who. Each host comes twice where its pods
// have addresses of both families.
func (d *Datapath) setWirePeers(hosts []Host, routes []HostRoute) error {
	if d.wire == nil {
		return nil
	}
	var peers []wireguard.Peer
	d.wireHosts = map[wireguard.Key]string{}
	for i, r := range routes {
		if r.Path != PathWireGuard {
			continue
		}
		h := hosts[i]
		d.wireHosts[h.WireGuardKey] = h.Name
		allowed := []netip.Prefix{r.PodCIDR}
		for _, a := range unicast(h.Addresses, r.PodCIDR.Addr().Is6()) {
			allowed = append(allowed, netip.PrefixFrom(a, a.BitLen()))
		}
		if last := len(peers) - 1; last >= 0 && peers[last].Key == h.WireGuardKey {
			peers[last].Allowed = append(peers[last].Allowed, allowed...)
			continue
		}
		peers = append(peers, wireguard.Peer{
			Key: h.WireGuardKey, Endpoint: netip.AddrPortFrom(r.Via, d.opts.WireGuardPort), Allowed: allowed,
		})
	}
	return d.wire.SetPeers(peers)
}

// closeWire lets go of the device; that of the kernel goes on.
func (d *Datapath) closeWire() error {
	if d.wire == nil {
		return nil
	}
	err := d.wire.Close()
	d.wire = nil
	return err
}

func (d *Datapath) removeWire() error {
	return errors.Join(d.closeWire(), wireguard.Remove(d.nl, wireDevice))
}

// Sessions tells, by host, what the WireGuard device says of those that it has
// keys of. Without encryption there are none.
func (d *Datapath) Sessions() (map[string]wireguard.Stats, error) {
	d.hosts.setting.Lock()
	defer d.hosts.setting.Unlock()
	if d.wire == nil {
		return nil, nil
	}
	stats, err := d.wire.Stats()
	if err != nil {
		return nil, err
	}
	out := make(map[string]wireguard.Stats, len(stats))
	for key, s := range stats {
		if name := d.wireHosts[key]; name != "" {
			out[name] = s
		}
	}
	return out, nil
}
