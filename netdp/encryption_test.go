package netdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/wireguard"
)

// wireMarker is what pods say and the wire must not show.
const wireMarker = "marker-that-nobody-may-read"

// encrypt gives each of the hosts a key; wireguard-go encrypts.
func (c *cell) encrypt(hosts ...*cellHost) {
	c.t.Helper()
	for _, h := range hosts {
		h.newKey()
	}
}

func (h *cellHost) newKey() {
	h.t.Helper()
	key, err := wireguard.NewPrivateKey()
	h.must(err)
	h.dp.opts.userWireGuard, h.opts.userWireGuard = true, true
	h.opts.WireGuardKey = key
	h.must(h.dp.SetEncryption(key))
}

// wiretap sees every packet on the links between the hosts.
type wiretap struct {
	mu                   sync.Mutex // guards all below
	plain, wireGuard, of int
	first                string // where the marker was first seen
	end                  func()
}

func (c *cell) tap() *wiretap {
	c.t.Helper()
	w := &wiretap{}
	var fd int
	c.must(c.router.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	}))
	c.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}))
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(fd)
		buf := make([]byte, 1<<17)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err == nil {
				w.see(buf[:n])
				continue
			}
			select {
			case <-stop: // and nothing waits in the socket
				return
			default:
			}
		}
	}()
	var once sync.Once
	w.end = func() { once.Do(func() { close(stop) }); <-ended }
	c.t.Cleanup(w.end)
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wiretap) see(packet []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of++
	if bytes.Contains(packet, []byte(wireMarker)) {
		if w.plain++; w.plain == 1 {
			w.first = fmt.Sprintf("%x", packet[:min(len(packet), 48)])
		}
	}
	if len(packet) > 28 && packet[0]>>4 == 4 && packet[9] == unix.IPPROTO_UDP &&
		binary.BigEndian.Uint16(packet[22:]) == DefaultWireGuardPort {
		w.wireGuard++
	}
}

// counts ends the tap.
func (w *wiretap) counts() (plain, wireGuard int) {
	w.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.plain, w.wireGuard
}

// say calls and has the marker in what both sides send.
func (c *cell) say(h *cellHost, ns namespace, network, to string, wait time.Duration) (answer string, err error) {
	c.in(h, func() {
		var conn net.Conn
		err = ns.do(func() (err error) {
			conn, err = net.DialTimeout(network, to, wait)
			return err
		})
		if err != nil {
			return
		}
		defer conn.Close()
		if err = conn.SetDeadline(time.Now().Add(wait)); err != nil {
			return
		}
		if _, err = conn.Write([]byte(wireMarker)); err != nil {
			return
		}
		buf := make([]byte, 1024)
		n, readErr := conn.Read(buf)
		answer, err = string(buf[:n]), readErr
	})
	return answer, err
}

// Pods of all hosts, the hosts themselves and callers outside get on as without
// encryption, whether hosts share a link or not, and nobody between them reads it.
func TestEncryptedPodsReachEachOther(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "far3")
	c.meet()
	pods := c.servers6()
	tap := c.tap()
	if _, err := c.say(c.hosts[0], pods[0].ns, "udp6", at6(pods[1].ip, 80), ioTimeout); err != nil {
		t.Fatal(err)
	}
	if plain, _ := tap.counts(); plain == 0 {
		t.Fatal("the tap does not see what is not encrypted")
	}
	c.encrypt(c.hosts...)
	c.meet()
	for _, h := range c.hosts {
		for _, r := range h.dp.Hosts() {
			if r.Path != PathWireGuard || r.MTU != fallbackMTU-wireguard.Overhead || r.Device != wireDevice {
				t.Errorf("%s reaches %+v", h.name, r)
			}
		}
		c.serveTCP(h.host, ":6443", h.name)
		c.serveTCP(h.host, "[::]:6443", h.name)
	}
	secret := c.tap()
	for _, from := range pods {
		for _, to := range pods {
			four := to.host.dp.pods.byUID[to.host.name+"-pod"].record.Address
			mine := from.host.dp.pods.byUID[from.host.name+"-pod"].record.Address
			type ends struct {
				what, from, to string
				ns             namespace
			}
			for _, e := range []ends{
				{"pod to pod", mine.String(), at6(four, 80), from.ns}, {"host to pod", from.host.ip.String(), at6(four, 80), from.host.host},
				{"pod to pod", from.ip.String(), at6(to.ip, 80), from.ns}, {"host to pod", from.host.ip6.String(), at6(to.ip, 80), from.host.host},
				{"pod to host", mine.String(), at6(to.host.ip, 6443), from.ns}, {"pod to host", from.ip.String(), at6(to.host.ip6, 6443), from.ns},
			} {
				for _, proto := range []string{"tcp", "udp"} {
					if proto == "udp" && e.what == "pod to host" {
						continue
					}
					got, err := c.say(from.host, e.ns, proto+familyName(e.to), e.to, ioTimeout)
					if want := to.host.name + " " + e.from + " " + wireMarker; err != nil || got != want {
						t.Errorf("%s of %s, %s to %s: %q, %v; want %q", proto, e.what, e.from, e.to, got, err, want)
					}
				}
			}
		}
	}
	plain, encrypted := secret.counts()
	if plain != 0 || encrypted == 0 {
		t.Errorf("%d of %d packets show what was said (%s), %d are WireGuard's", plain, secret.of, secret.first, encrypted)
	}
	for _, h := range c.hosts {
		if drops, err := h.dp.Drops(); err != nil || drops["not-encrypted"] != 0 {
			t.Errorf("%s dropped %v, %v", h.name, drops, err)
		}
	}
}

// Callers outside, of node ports whose backend is on another host: the answers
// find back, large ones too, and what goes on between the hosts is encrypted.
func TestEncryptedNodePorts(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.encrypt(c.hosts...)
	c.meet()
	payload := bytes.Repeat([]byte(wireMarker), 1<<15)
	for _, h := range c.hosts[1:] {
		ns, ip := h.pod(h.dp, "sink")
		c.countTCP(ns, ":80")
		c.serveUDP(ns, ":80", h.name)
		for _, proto := range []Proto{TCP, UDP} {
			c.set(Service{Key: proto.String(), Proto: proto, Frontends: []Frontend{{Port: 30080}},
				Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}})
		}
		to := c.hosts[0].ip.String() + ":30080"
		conn, err := dial(c.outside, "tcp4", to)
		c.must(err)
		c.must(conn.SetDeadline(deadline()))
		_, err = conn.Write(payload)
		c.must(err)
		c.must(conn.(*net.TCPConn).CloseWrite())
		if answer, err := io.ReadAll(conn); err != nil || !bytes.Equal(answer, payload) {
			t.Errorf("%s: %d bytes came back by TCP, %v", h.name, len(answer), err)
		}
		_ = conn.Close()
		if got, err := c.askFrom(nil, c.outside, "udp4", to); err != nil || !strings.HasPrefix(got, h.name) {
			t.Errorf("UDP by the node port to %s: %q, %v", h.name, got, err)
		}
		// A pod of another host calls by a host that has no backend, too.
		pod, _ := c.hosts[3-len(c.hosts[1:])].pod(c.hosts[1].dp, "caller-of-"+h.name)
		if got, err := c.askFrom(c.hosts[1], pod, "udp4", to); err != nil || !strings.HasPrefix(got, h.name) {
			t.Errorf("a pod by the node port to %s: %q, %v", h.name, got, err)
		}
	}
}

// Large transfers and datagrams fit, also from pods made before.
func TestEncryptedLargePackets(t *testing.T) {
	c := newDualCell(t, "near1", "far2")
	early, _ := c.hosts[0].pod(c.hosts[0].dp, "early")
	c.encrypt(c.hosts...)
	c.meet()
	ns, ip := c.hosts[1].pod(c.hosts[1].dp, "sink")
	six := c.hosts[1].dp.pods.byUID["sink"].record.Address6
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for _, addr := range []netip.Addr{ip, six} {
		family := familyName(at6(addr, 80))
		wildcard := map[string]string{"4": ":", "6": "[::]:"}[family]
		c.countTCP(ns, wildcard+"80")
		c.serveBigUDP(ns, wildcard+"81")
		conn, err := dial(early, "tcp"+family, at6(addr, 80))
		c.must(err)
		c.must(conn.SetDeadline(deadline()))
		_, err = conn.Write(payload)
		c.must(err)
		c.must(conn.(*net.TCPConn).CloseWrite())
		if answer, err := io.ReadAll(conn); err != nil || len(answer) != len(payload) {
			t.Errorf("%s: %d bytes came back, %v", addr, len(answer), err)
		}
		_ = conn.Close()
		for _, size := range []int{1300, 1412, 1440, 9000, 40000} {
			conn, err := dial(early, "udp"+family, at6(addr, 81))
			c.must(err)
			c.must(conn.SetDeadline(deadline()))
			_, err = conn.Write(payload[:size])
			c.must(err)
			buf := make([]byte, 1<<16)
			if n, err := conn.Read(buf); err != nil || n != size {
				t.Errorf("%s: of a datagram of %d came back %d, %v", addr, size, n, err)
			}
			_ = conn.Close()
		}
	}
}

// Without the other host's key, without the device, and from a host that does not
// encrypt, nothing of pods is on the wire or taken from it.
func TestNothingLeavesInTheClear(t *testing.T) {
	c := newDualCell(t, "near1", "near2", "far3")
	for _, h := range c.hosts {
		h.dp.opts.CellPodCIDR = netip.MustParsePrefix("10.64.0.0/10")
		h.dp.opts.CellPodCIDR6 = netip.MustParsePrefix("fd00:64::/32")
		h.opts.CellPodCIDR, h.opts.CellPodCIDR6 = h.dp.opts.CellPodCIDR, h.dp.opts.CellPodCIDR6
	}
	c.meet()
	pods := c.servers6()
	first := c.hosts[0]
	c.encrypt(first)
	c.must(first.dp.SetHosts(c.others(first)))
	for _, r := range first.dp.Hosts() {
		if r.Path != PathUnreachable || !strings.Contains(r.Problem, "key") {
			t.Errorf("a host without a key is reached by %+v", r)
		}
	}
	tap := c.tap()
	silent := func(when string, from *cellHost, ns namespace, network, to string) {
		t.Helper()
		if got, err := c.say(from, ns, network, to, 300*time.Millisecond); err == nil {
			t.Errorf("%s: %s to %s was answered %q", when, network, to, got)
		}
	}
	for _, p := range pods[1:] {
		four := p.host.dp.pods.byUID[p.host.name+"-pod"].record.Address
		for _, ns := range []namespace{pods[0].ns, first.host} {
			silent("without a key", first, ns, "udp4", at6(four, 80))
			silent("without a key", first, ns, "udp6", at6(p.ip, 80))
			silent("without a key", first, ns, "tcp4", at6(four, 80))
		}
		silent("to the host itself", first, pods[0].ns, "udp4", at6(p.host.ip, 80))
	}
	if drops, err := first.dp.Drops(); err != nil || drops["not-encrypted"] == 0 {
		t.Errorf("dropped %v, %v", drops, err)
	}
	if plain, _ := tap.counts(); plain != 0 {
		t.Errorf("%d packets show what was said: %s", plain, tap.first)
	}
	// What comes in the clear is from nobody who has a key.
	mine := first.dp.pods.byUID[first.name+"-pod"].record.Address
	for _, p := range pods[1:] {
		before, err := first.dp.Drops()
		c.must(err)
		silent("in the clear", p.host, p.ns, "udp4", at6(mine, 80))
		if after, err := first.dp.Drops(); err != nil || p.host.name == "near2" && after["not-encrypted"] == before["not-encrypted"] {
			t.Errorf("from %s: dropped %v, then %v, %v", p.host.name, before, after, err)
		}
	}
	// A daemon that hears of encryption while it is down finds ways in the clear.
	second := c.hosts[1]
	second.opts.WireGuardKey, second.opts.userWireGuard = first.opts.WireGuardKey, true
	tap = c.tap()
	second.restart()
	silent("with the ways of a daemon that did not encrypt", second, pods[1].ns, "udp6", at6(pods[2].ip, 80))
	silent("with the routes of a daemon that did not encrypt", second, second.host, "udp6", at6(pods[2].ip, 80))
	if plain, _ := tap.counts(); plain != 0 {
		t.Errorf("%d packets show what was said: %s", plain, tap.first)
	}
	// The device goes with its daemon; programs and maps stay.
	c.encrypt(c.hosts...)
	c.meet()
	four := pods[1].host.dp.pods.byUID[pods[1].host.name+"-pod"].record.Address
	if _, err := c.say(first, pods[0].ns, "udp4", at6(four, 80), ioTimeout); err != nil {
		t.Fatalf("with all keys: %v", err)
	}
	tap = c.tap()
	if first.dp.KeyToTell().IsZero() {
		t.Error("a key whose device is there is not told")
	}
	sent := first.sideLink()
	c.must(first.dp.Close())
	silent("without a daemon", first, pods[0].ns, "udp4", at6(four, 80))
	silent("without a daemon", first, first.host, "udp4", at6(four, 80))
	if n := sent(); n != 0 {
		t.Errorf("%d packets left by a link that is no uplink", n)
	}
	first.dp = first.open()
	silent("with a daemon that knows no host yet", first, pods[0].ns, "udp4", at6(four, 80))
	if plain, _ := tap.counts(); plain != 0 {
		t.Errorf("%d packets show what was said: %s", plain, tap.first)
	}
	c.must(first.dp.SetHosts(c.others(first)))
	if _, err := c.say(first, pods[0].ns, "udp4", at6(four, 80), ioTimeout); err != nil {
		t.Errorf("with a new daemon: %v", err)
	}
}

// sideLink is a way of the host's to half the world by a link without our
// programs; the function counts what left by it.
func (h *cellHost) sideLink() (sent func() uint64) {
	h.t.Helper()
	h.must(h.host.do(func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "side"}, PeerName: "side-end"})
		return errors.Join(err, writeSysctl("1", "net/ipv6/conf/side/disable_ipv6"), writeSysctl("1", "net/ipv6/conf/side-end/disable_ipv6"))
	}))
	h.raise(h.host, "side", "192.0.2.1/24")
	h.raise(h.host, "side-end", "192.0.2.2/24")
	link, err := h.dp.nl.LinkByName("side")
	h.must(err)
	h.must(h.dp.nl.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/1"))}))
	return func() (n uint64) {
		h.must(h.host.do(func() error {
			link, err := netlink.LinkByName("side")
			if err == nil {
				n = link.Attrs().Statistics.TxPackets
			}
			return err
		}))
		return n
	}
}

// A host that comes with another key is followed, one that leaves is forgotten,
// and a host that lost its session is heard at once.
func TestEncryptionKeysChange(t *testing.T) {
	c := newCell(t, "near1", "near2", "far3")
	c.encrypt(c.hosts...)
	c.meet()
	pods := c.servers()
	first, second := c.hosts[0], c.hosts[1]
	ask := func(when string) {
		t.Helper()
		for _, way := range [][2]cellPod{{pods[0], pods[1]}, {pods[1], pods[0]}} {
			if _, err := c.askFrom(way[0].host, way[0].ns, "tcp4", way[1].ip.String()+":80"); err != nil {
				t.Errorf("%s: from %s to %s: %v", when, way[0].host.name, way[1].host.name, err)
			}
		}
	}
	ask("at first")
	second.newKey()
	c.meet()
	ask("with another key")
	conn, err := dial(pods[0].ns, "tcp4", pods[1].ip.String()+":80")
	c.must(err)
	defer conn.Close()
	if _, err := call(conn, "before"); err != nil {
		t.Error(err)
	}
	second.restart()
	c.must(second.dp.SetHosts(c.others(second)))
	if _, err := call(conn, "after"); err != nil { // within ioTimeout: less than WireGuard's own 15 s
		t.Errorf("a connection open before the other daemon began anew: %v", err)
	}
	stats, err := first.dp.wire.Stats()
	c.must(err)
	if s := stats[second.dp.Encryption()]; len(stats) != 2 || s.Handshake.IsZero() || s.Sent == 0 || s.Received == 0 {
		t.Errorf("peers are %v", stats)
	}
	if sessions, err := first.dp.Sessions(); err != nil || sessions[second.name].Unheard() {
		t.Errorf("a host that answers counts as unheard: %+v, %v", sessions, err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(first.dp.Metrics())
	families, err := registry.Gather()
	c.must(err)
	told := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); strings.HasPrefix(f.GetName(), "shoal_wireguard") && l[0].GetValue() == second.name {
				told[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	if len(told) != 3 || told["shoal_wireguard_last_handshake_seconds"] == 0 || told["shoal_wireguard_sent_bytes_total"] == 0 {
		t.Errorf("metrics of %s are %v", second.name, told)
	}
	c.must(first.dp.SetHosts(c.others(first)[1:]))
	if stats, err = first.dp.wire.Stats(); err != nil || len(stats) != 1 {
		t.Errorf("after a host left: %v, %v", stats, err)
	}
	hosts := c.others(first)
	hosts[1].WireGuardKey = hosts[0].WireGuardKey
	c.must(first.dp.SetHosts(hosts))
	if r := c.path(first, hosts[1].Name); r.Path != PathUnreachable || !strings.Contains(r.Problem, hosts[0].Name) {
		t.Errorf("a host with another's key is reached by %+v", r)
	}
	ask("beside a host with another's key")
}

// Without encryption again, the ways are as before, and nothing is left of it.
func TestEncryptionLeavesNothing(t *testing.T) {
	c := newCell(t, "near1", "far2")
	c.meet()
	pods := c.servers()
	first := c.hosts[0]
	first.dp.opts.CellPodCIDR = netip.MustParsePrefix("10.64.0.0/10")
	before := c.network(first)
	goroutines := runtime.NumGoroutine()
	c.encrypt(c.hosts...)
	c.meet()
	if _, err := c.askFrom(first, pods[0].ns, "tcp4", pods[1].ip.String()+":80"); err != nil {
		t.Fatal(err)
	}
	// Somebody removes the device: it is made again.
	link, err := first.dp.nl.LinkByName(wireDevice)
	c.must(err)
	c.must(first.dp.nl.LinkDel(link))
	c.must(first.dp.SetHosts(c.others(first)))
	if _, err := c.askFrom(first, pods[0].ns, "tcp4", pods[1].ip.String()+":80"); err != nil {
		t.Errorf("after the device was removed: %v", err)
	}
	// Somebody sets it down: it is raised again.
	link, err = first.dp.nl.LinkByName(wireDevice)
	c.must(err)
	c.must(first.dp.nl.LinkSetDown(link))
	c.must(first.dp.SetHosts(c.others(first)))
	if _, err := c.askFrom(first, pods[0].ns, "tcp4", pods[1].ip.String()+":80"); err != nil {
		t.Errorf("after the device was set down: %v", err)
	}
	for _, h := range c.hosts {
		h.opts.WireGuardKey = wireguard.PrivateKey{}
		c.must(h.dp.SetEncryption(wireguard.PrivateKey{}))
	}
	c.meet()
	if got := c.network(first); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("after encryption:\n%s\nbefore:\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	if _, err := c.askFrom(first, pods[0].ns, "tcp4", pods[1].ip.String()+":80"); err != nil {
		t.Error(err)
	}
	if _, err := first.dp.nl.LinkByName(wireDevice); !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("the device is still there: %v", err)
	}
	// wireguard-go's workers end a moment after its Close.
	for end := time.Now().Add(10 * ioTimeout); runtime.NumGoroutine() > goroutines; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
