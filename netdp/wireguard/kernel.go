package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// errNoKernel: the kernel has no WireGuard (Linux 5.6, CONFIG_WIREGUARD).
var errNoKernel = errors.New("the kernel has no WireGuard")

// kernel is the kernel's own device.
type kernel struct {
	client *wgctrl.Client
	name   string
}

func openKernel(o Options) (engine, error) {
	link := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: o.Name, MTU: o.MTU}}
	err := o.Links.LinkAdd(link)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, errNoKernel
	case errors.Is(err, unix.EEXIST):
		have, err := o.Links.LinkByName(o.Name)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", o.Name, err)
		}
		if _, ours := have.(*netlink.Wireguard); !ours {
			return nil, fmt.Errorf("make WireGuard device: an interface %s of kind %s is there already; remove it with `ip link del %s`", o.Name, have.Type(), o.Name)
		}
	case err != nil:
		return nil, fmt.Errorf("make WireGuard device %s: %w", o.Name, err)
	}
	k := &kernel{name: o.Name}
	if err := o.InHost(func() (err error) { // the socket stays in the namespace it is made in
		k.client, err = wgctrl.New()
		return err
	}); err != nil {
		return nil, fmt.Errorf("open the kernel's WireGuard: %w", err)
	}
	key, port := wgtypes.Key(o.Key.bytes()), int(o.Port)
	config := wgtypes.Config{PrivateKey: &key, ListenPort: &port}
	if err := k.adopt(&config); err != nil {
		return nil, errors.Join(err, k.client.Close())
	}
	if err := k.client.ConfigureDevice(o.Name, config); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", o.Name, err), k.client.Close())
	}
	return k, nil
}

// adopt leaves out what an earlier daemon set alike: to set a key again ends all
// sessions.
func (k *kernel) adopt(config *wgtypes.Config) error {
	have, err := k.client.Device(k.name)
	if err != nil {
		return fmt.Errorf("read %s: %w", k.name, err)
	}
	if have.PrivateKey == *config.PrivateKey {
		config.PrivateKey = nil
	}
	if have.ListenPort == *config.ListenPort {
		config.ListenPort = nil
	}
	return nil
}

func (k *kernel) change(changes []change) error {
	have, err := k.client.Device(k.name)
	if err != nil {
		return err
	}
	config := wgtypes.Config{}
	var greet []wgtypes.PeerConfig
	known := map[Key]bool{}
	for _, p := range have.Peers {
		known[Key(p.PublicKey)] = true
	}
	for _, c := range changes {
		p := wgtypes.PeerConfig{PublicKey: wgtypes.Key(c.Key), Remove: c.gone, UpdateOnly: c.gone}
		if c.endpoint {
			p.Endpoint = net.UDPAddrFromAddrPort(c.Endpoint)
		}
		if !c.gone {
			p.ReplaceAllowedIPs, p.AllowedIPs = true, ipNets(c.Allowed)
			if !known[c.Key] {
				greet = append(greet, wgtypes.PeerConfig{PublicKey: p.PublicKey, UpdateOnly: true})
			}
		}
		config.Peers = append(config.Peers, p)
	}
	if err := k.client.ConfigureDevice(k.name, config); err != nil {
		return err
	}
	return k.greet(greet)
}

// greet has the kernel send one empty packet to each: it does so when an interval
// is set, which is taken back. As in (*user).change, it ends a peer's old session.
func (k *kernel) greet(peers []wgtypes.PeerConfig) error {
	for _, interval := range []time.Duration{time.Minute, 0} {
		for i := range peers {
			peers[i].PersistentKeepaliveInterval = &interval
		}
		if err := k.client.ConfigureDevice(k.name, wgtypes.Config{Peers: peers}); err != nil {
			return err
		}
	}
	return nil
}

func ipNets(prefixes []netip.Prefix) []net.IPNet {
	out := make([]net.IPNet, 0, len(prefixes))
	for _, p := range prefixes {
		out = append(out, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return out
}

func (k *kernel) stats() (map[Key]Stats, error) {
	have, err := k.client.Device(k.name)
	if err != nil {
		return nil, err
	}
	out := make(map[Key]Stats, len(have.Peers))
	for _, p := range have.Peers {
		out[Key(p.PublicKey)] = Stats{Handshake: p.LastHandshakeTime, Sent: uint64(p.TransmitBytes), Received: uint64(p.ReceiveBytes)}
	}
	return out, nil
}

func (*kernel) setMTU(int) error { return nil } // it follows the interface's
func (*kernel) alive() bool      { return true }
func (k *kernel) close() error   { return k.client.Close() }
