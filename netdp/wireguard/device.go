package wireguard

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// Overhead is what one packet needs more where hosts reach each other by IPv4, in
// bytes: IPv4 20, UDP 8, and WireGuard's own 16 in front and 16 behind.
const Overhead = 60

// Peer is another host.
type Peer struct {
	Key      Key
	Endpoint netip.AddrPort
	// Allowed are the addresses it may send from, and whose packets go to it. No
	// two peers have the same.
	Allowed []netip.Prefix
}

// Stats are of one peer.
type Stats struct {
	// Handshake is when the last one was; zero: there was none.
	Handshake time.Time
	// Sent and Received count bytes, since the peer was set.
	Sent, Received uint64
}

// Unheard is a peer that was called and has never answered: its UDP port may be
// behind a firewall.
func (s Stats) Unheard() bool {
	return s.Sent > 0 && s.Received == 0 && s.Handshake.IsZero()
}

// Options say what device to make.
type Options struct {
	// Name is that of the interface.
	Name string
	Key  PrivateKey
	// Port is the UDP port of both families.
	Port uint16
	// MTU is the largest packet inside, in bytes.
	MTU int
	// InHost runs a function on a thread in the network namespace of the device,
	// Links works there.
	InHost func(func() error) error
	Links  *netlink.Handle
	Logger *slog.Logger

	// UserSpace leaves the kernel's WireGuard aside, if there is one.
	UserSpace bool
}

// engine is what encrypts.
type engine interface {
	// change applies all, in this order.
	change([]change) error
	stats() (map[Key]Stats, error)
	setMTU(int) error
	alive() bool
	close() error
}

// change is what becomes of one peer: it goes, or it is as in Peer from now on.
type change struct {
	Peer
	gone     bool
	isNew    bool
	endpoint bool // it is to be told; else where the peer was last heard stays
}

// Device is one WireGuard device. One goroutine at a time may use it.
type Device struct {
	o      Options
	engine engine
	peers  map[Key]Peer // as they were set last
	sure   bool         // the device has these and no others
	kernel bool
}

// Open makes the device, or takes over that of an earlier daemon. The interface
// is up when it returns, without addresses and routes.
func Open(o Options) (*Device, error) {
	d := &Device{o: o, peers: map[Key]Peer{}}
	var err error
	if !o.UserSpace {
		d.engine, err = openKernel(o)
		d.kernel = err == nil
	}
	if o.UserSpace || errors.Is(err, errNoKernel) {
		d.engine, err = openUser(o)
	}
	if err != nil {
		return nil, err
	}
	if err := d.raise(); err != nil {
		return nil, errors.Join(err, d.engine.close())
	}
	return d, nil
}

func (d *Device) raise() error {
	link, err := d.o.Links.LinkByName(d.o.Name)
	if err != nil {
		return fmt.Errorf("find %s: %w", d.o.Name, err)
	}
	if err := d.o.Links.LinkSetMTU(link, d.o.MTU); err != nil {
		return fmt.Errorf("set MTU of %s: %w", d.o.Name, err)
	}
	if err := d.o.Links.LinkSetUp(link); err != nil {
		return fmt.Errorf("raise %s: UDP port %d may be taken; find who has it with `ss -ulnp`: %w", d.o.Name, d.o.Port, err)
	}
	return nil
}

// InKernel tells whether the kernel encrypts, and this device outlives the process.
func (d *Device) InKernel() bool { return d.kernel }

// Alive is false when somebody has removed the interface.
func (d *Device) Alive() bool {
	_, err := d.o.Links.LinkByName(d.o.Name)
	return err == nil && d.engine.alive()
}

// SetMTU changes the largest packet.
func (d *Device) SetMTU(mtu int) error {
	if mtu == d.o.MTU {
		return nil
	}
	link, err := d.o.Links.LinkByName(d.o.Name)
	if err == nil {
		err = d.o.Links.LinkSetMTU(link, mtu)
	}
	if err == nil {
		err = d.engine.setMTU(mtu)
	}
	if err != nil {
		return fmt.Errorf("set MTU of %s: %w", d.o.Name, err)
	}
	d.o.MTU = mtu
	return nil
}

// SetPeers makes the peers these and no others.
func (d *Device) SetPeers(peers []Peer) error {
	want := make(map[Key]Peer, len(peers))
	for _, p := range peers {
		want[p.Key] = p
	}
	strangers, err := d.strangers(want)
	if err != nil {
		return err
	}
	changes := slices.Concat(strangers, difference(d.peers, want))
	if len(changes) > 0 {
		err = d.engine.change(changes)
	}
	if err != nil {
		d.peers, d.sure = map[Key]Peer{}, false // all is set again
		return fmt.Errorf("set peers of %s: %w", d.o.Name, err)
	}
	d.peers, d.sure = want, true
	return nil
}

// strangers are peers that an earlier daemon set, or a change that failed.
func (d *Device) strangers(want map[Key]Peer) ([]change, error) {
	if d.sure {
		return nil, nil
	}
	have, err := d.Stats()
	var out []change
	for key := range have {
		if _, ok := want[key]; !ok {
			out = append(out, change{Peer: Peer{Key: key}, gone: true})
		}
	}
	return out, err
}

// difference has what goes first: an address goes over to another peer only when
// the one that had it is gone.
func difference(have, want map[Key]Peer) []change {
	var out []change
	for _, key := range sortedKeys(have) {
		if _, ok := want[key]; !ok {
			out = append(out, change{Peer: have[key], gone: true})
		}
	}
	for _, key := range sortedKeys(want) {
		old, ok := have[key]
		now := want[key]
		if ok && old.Endpoint == now.Endpoint && slices.Equal(old.Allowed, now.Allowed) {
			continue
		}
		out = append(out, change{Peer: now, isNew: !ok, endpoint: !ok || old.Endpoint != now.Endpoint})
	}
	return out
}

func sortedKeys(m map[Key]Peer) []Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b Key) int { return slices.Compare(a[:], b[:]) })
}

// Stats tells of each peer.
func (d *Device) Stats() (map[Key]Stats, error) {
	out, err := d.engine.stats()
	if err != nil {
		return nil, fmt.Errorf("read peers of %s: %w", d.o.Name, err)
	}
	return out, nil
}

// Close lets go of the device; the kernel's goes on encrypting.
func (d *Device) Close() error {
	if err := d.engine.close(); err != nil {
		return fmt.Errorf("close %s: %w", d.o.Name, err)
	}
	return nil
}

// Remove takes an interface of this name away, if there is one.
func Remove(links *netlink.Handle, name string) error {
	link, err := links.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = links.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
