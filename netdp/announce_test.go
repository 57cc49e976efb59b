package netdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/announce"
	"shoal/test/eventually"
)

const (
	announced  = "198.18.0.200"
	announced6 = "2001:db8::c8"
)

// responder answers on a host's link, as its daemon's would.
func (c *cell) responder(host namespace) *announce.Responder {
	c.t.Helper()
	r := announce.New(announce.Options{Do: host.do, Logger: newTestLogger(c.t)})
	c.t.Cleanup(r.Close)
	return r
}

// bare is a host on the link without a datapath.
func (c *cell) bare() namespace {
	ns := c.makeNamespace(filepath.Join(c.dir, "bare"))
	c.plug(ns, "bare", "near", "198.18.0.9/24", "198.18.0.254")
	return ns
}

// mac is the Ethernet address of a host's link.
func (c *cell) mac(ns namespace) (mac net.HardwareAddr) {
	c.t.Helper()
	c.must(ns.do(func() error {
		link, err := netlink.LinkByName(cellLink)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	}))
	return mac
}

// neighbour is what the machine outside believes has an address.
func (c *cell) neighbour(addr string) string {
	c.t.Helper()
	var found string
	c.must(c.outside.do(func() error {
		link, err := netlink.LinkByName(cellLink)
		if err != nil {
			return err
		}
		all, err := netlink.NeighList(link.Attrs().Index, 0)
		for _, n := range all {
			if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == netip.MustParseAddr(addr) {
				found = n.HardwareAddr.String()
			}
		}
		return err
	}))
	return found
}

func (c *cell) neighbourBecomes(addr string, want net.HardwareAddr) {
	c.t.Helper()
	eventually.True(c.t, fmt.Sprintf("%s is at %s", addr, want), func() bool { return c.neighbour(addr) == want.String() })
}

// silent: nobody answers for an address. The kernel asks three times, a second
// apart.
func (c *cell) silent(network, addr string) {
	c.t.Helper()
	conn, err := dial(c.outside, network, addr)
	if err == nil {
		conn.Close()
		c.t.Errorf("%s was reached though nobody announces it", addr)
	}
}

// A machine outside calls services at addresses that no interface has. The host
// that answers for them dies, and its calls go on through another one: connections
// too, as the backend's host alone knows them.
func TestAnnouncedAddressesMoveWithTheirCallers(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "near3")
	c.meet()
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	pod := c.servers6()[2]
	record := h3.dp.pods.byUID["near3-pod"].record
	vips := []netip.Addr{netip.MustParseAddr(announced), netip.MustParseAddr("2001:db8:18::c8")}
	for i, backend := range []netip.Addr{record.Address, record.Address6} {
		for _, proto := range []Proto{TCP, UDP} {
			c.set(Service{Key: fmt.Sprintf("default/web:%d/%s", i, proto), Proto: proto,
				Frontends: []Frontend{{Addr: vips[i], Port: 80, Outside: true}},
				Backends:  []Backend{{Addr: netip.AddrPortFrom(backend, 80)}}})
		}
	}
	c.silent("tcp4", at6(vips[0], 80))
	for _, vip := range vips { // callers inside need nobody to answer
		for who, ns := range map[string]namespace{"a host": h1.host, "a pod on another host": pod.ns} {
			host := h1
			if who != "a host" {
				host = h3
			}
			if got, err := c.askFrom(host, ns, "tcp"+familyName(at6(vip, 80)), at6(vip, 80)); err != nil || !strings.HasPrefix(got, "near3 ") {
				t.Errorf("%s calls %s: %q, %v", who, vip, got, err)
			}
		}
	}

	first, second := c.responder(h1.host), c.responder(h2.host)
	c.must(first.Set([]string{cellLink}, vips, false))
	var datagrams, connections []net.Conn
	for _, vip := range vips {
		to := at6(vip, 80)
		for network, all := range map[string]*[]net.Conn{"udp": &datagrams, "tcp": &connections} {
			flow, err := dial(c.outside, network+familyName(to), to)
			c.must(err)
			defer flow.Close()
			*all = append(*all, flow)
		}
	}
	goOn := func(through *cellHost) {
		t.Helper()
		for i, caller := range []string{cellOutside, cellOutside6} {
			want := "near3 " + caller + " "
			// A datagram may be lost while the address moves; the next one is not.
			eventually.True(t, fmt.Sprintf("the flow to %s goes on through %s", vips[i], through.name), func() bool {
				answer, err := call(datagrams[i], "more")
				return err == nil && strings.HasPrefix(answer, want)
			})
			if answer, err := call(connections[i], "more"); err != nil || !strings.HasPrefix(answer, want) {
				t.Errorf("the connection to %s does not go on through %s: %q, %v", vips[i], through.name, answer, err)
			}
			c.neighbourBecomes(vips[i].String(), c.mac(through.host))
			to := at6(vips[i], 80)
			if got, err := c.askFrom(nil, c.outside, "tcp"+familyName(to), to); err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("a new call to %s: %q, %v; want it handed over by %s", to, got, err, through.name)
			}
		}
	}
	goOn(h1)

	// It dies: nothing on it answers or forwards any more.
	first.Close()
	c.must(h1.host.do(func() error {
		link, err := netlink.LinkByName(cellLink)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	}))
	c.must(second.Set([]string{cellLink}, vips, false))
	goOn(h2)
}

// Addresses of IPv6 are answered for too, and kept from whoever wants to take
// them; what is no longer announced is answered by nobody.
func TestAnnouncedNeighbours(t *testing.T) {
	c := newCell(t)
	host := c.bare()
	six := netip.MustParseAddr(announced6)
	r := c.responder(host)
	c.must(c.outside.do(func() error { return addAddress("2001:db8::64/64") }))
	c.must(r.Set([]string{cellLink}, []netip.Addr{netip.MustParseAddr(announced), six}, false))
	ask := func() { // a datagram to a closed port makes the kernel ask
		for _, to := range []string{announced + ":9", "[" + announced6 + "]:9"} {
			conn, err := dial(c.outside, "udp", to)
			c.must(err)
			_, _ = conn.Write([]byte("x"))
			conn.Close()
		}
	}
	for _, addr := range []string{announced, announced6} {
		eventually.True(t, addr+" is answered for", func() bool { ask(); return c.neighbour(addr) == c.mac(host).String() })
	}
	// Somebody takes the address by mistake: its kernel must notice.
	c.must(c.outside.do(func() error { return addAddress(announced6 + "/64") }))
	eventually.True(t, "the kernel finds the address taken", func() (failed bool) {
		c.must(c.outside.do(func() (err error) { failed, err = addressFailed(announced6); return err }))
		return failed
	})

	c.must(r.Set([]string{cellLink}, []netip.Addr{six}, false))
	c.must(c.outside.do(flushNeighbours))
	ask()
	time.Sleep(100 * time.Millisecond) // an answer takes microseconds; none may come
	if mac := c.neighbour(announced); mac != "" {
		t.Errorf("%s is still answered for, by %s", announced, mac)
	}
	r.Close()
	if err := r.Set([]string{cellLink}, nil, false); err == nil {
		t.Error("a closed responder takes addresses")
	}
}

// An address that another machine has is not announced, until that machine leaves
// it; one that is taken away later is given up to a machine that insists.
func TestAddressesOfOtherMachinesAreLeftAlone(t *testing.T) {
	c := newCell(t)
	host := c.bare()
	c.must(host.do(func() error { return addAddress("2001:db8::9/64") }))
	vips := []netip.Addr{netip.MustParseAddr(announced), netip.MustParseAddr(announced6)}
	has := func(change func(netlink.Link, *netlink.Addr) error) {
		t.Helper()
		c.must(c.outside.do(func() error {
			return errors.Join(changeAddress(change, announced+"/24", 0), changeAddress(change, announced6+"/64", unix.IFA_F_NODAD))
		}))
	}
	theirs := c.mac(c.outside).String()
	r := announce.New(announce.Options{Do: host.do, RetryTaken: time.Second, Logger: newTestLogger(t)})
	t.Cleanup(r.Close)
	taken := func(vip netip.Addr) bool {
		yes, by := r.Answers(vip)
		return !yes && by.String() == theirs
	}

	has(netlink.AddrAdd)
	c.must(r.Set([]string{cellLink}, vips, false))
	for _, vip := range vips {
		eventually.True(t, fmt.Sprintf("it is noticed who has %s", vip), func() bool { return taken(vip) })
	}
	if got := r.Addresses(); len(got) > 0 {
		t.Errorf("%v are answered for", got)
	}
	has(netlink.AddrDel)
	for _, vip := range vips {
		eventually.True(t, vip.String()+" is answered for once it is free", func() bool { yes, by := r.Answers(vip); return yes && by == nil })
	}

	has(netlink.AddrAdd) // without asking, as a machine does that was configured by hand
	for i, to := range []string{"198.18.0.9:9", "[2001:db8::9]:9"} {
		from := &net.UDPAddr{IP: vips[i].AsSlice()}
		eventually.True(t, fmt.Sprintf("%s is given up to who insists", vips[i]), func() bool {
			c.must(c.outside.do(flushNeighbours))
			c.must(c.outside.do(func() error {
				conn, err := (&net.Dialer{LocalAddr: from}).Dial("udp", to)
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = conn.Write([]byte("x")) // its kernel asks who has that, in the address's name
				return err
			}))
			time.Sleep(10 * time.Millisecond)
			return taken(vips[i])
		})
	}
}

// An interface that goes and comes back is answered on again.
func TestAnnounceOnAnInterfaceThatCameAnew(t *testing.T) {
	c := newCell(t)
	host := c.bare()
	vip := []netip.Addr{netip.MustParseAddr(announced)}
	r := c.responder(host)
	if err := r.Set([]string{"nothere", cellLink}, vip, false); err == nil || !strings.Contains(err.Error(), "nothere") {
		t.Errorf("an interface that is not there: %v", err)
	}
	knows := func() bool {
		conn, err := dial(c.outside, "udp4", announced+":9")
		c.must(err)
		_, _ = conn.Write([]byte("x"))
		conn.Close()
		return c.neighbour(announced) == c.mac(host).String()
	}
	eventually.True(t, "the address is answered for", knows)
	c.must(host.do(func() error {
		link, err := netlink.LinkByName(cellLink)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	}))
	c.must(c.outside.do(flushNeighbours))
	c.plug(host, "again", "near", "198.18.0.9/24", "198.18.0.254")
	c.must(r.Set([]string{cellLink}, vip, false))
	eventually.True(t, "the address is answered for on the new link", knows)
}

func addAddress(addr string) error { return changeAddress(netlink.AddrAdd, addr, 0) }

// changeAddress adds an address to this namespace's link or takes one away.
func changeAddress(change func(netlink.Link, *netlink.Addr) error, addr string, flags int) error {
	link, err := netlink.LinkByName(cellLink)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	a.Flags = flags
	return change(link, a)
}

// addressFailed tells whether duplicate address detection found another holder.
func addressFailed(addr string) (bool, error) {
	link, err := netlink.LinkByName(cellLink)
	if err != nil {
		return false, err
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_V6)
	const dadFailed = 0x08 // IFA_F_DADFAILED
	for _, a := range all {
		if a.IP.String() == addr {
			return a.Flags&dadFailed != 0, err
		}
	}
	return false, err
}

func flushNeighbours() error {
	link, err := netlink.LinkByName(cellLink)
	if err != nil {
		return err
	}
	all, err := netlink.NeighList(link.Attrs().Index, 0)
	if err != nil {
		return err
	}
	for _, n := range all {
		if n.State&netlink.NUD_PERMANENT == 0 && n.State&netlink.NUD_NOARP == 0 {
			if err := netlink.NeighDel(&n); err != nil {
				return err
			}
		}
	}
	return nil
}
