package netdp

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// BenchmarkHosts compares pods on two hosts with the hosts themselves, on one
// link and by VXLAN: MB/s of one TCP connection, and the time of one byte there
// and back. Plain VXLAN is a device of the kernel's with a fixed remote end.
func BenchmarkHosts(b *testing.B) {
	c := newCell(b, "near1", "near2", "far3")
	c.meet()
	pods := make([]cellPod, len(c.hosts))
	for i, h := range c.hosts {
		ns, ip := h.pod(h.dp, "bench")
		pods[i] = cellPod{h, ns, ip}
	}
	plain := c.plainVXLAN(c.hosts[0], c.hosts[2])
	for _, way := range []struct {
		name     string
		from, to namespace
		addr     netip.Addr
	}{
		{"direct/hosts", c.hosts[0].host, c.hosts[1].host, c.hosts[1].ip},
		{"direct/pods", pods[0].ns, pods[1].ns, pods[1].ip},
		{"vxlan/plain", c.hosts[0].host, c.hosts[2].host, plain},
		{"vxlan/pods", pods[0].ns, pods[2].ns, pods[2].ip},
	} {
		b.Run(way.name+"/bulk", func(b *testing.B) { c.bulk(b, way.from, way.to, way.addr) })
		b.Run(way.name+"/round trip", func(b *testing.B) { c.roundTrip(b, way.from, way.to, way.addr) })
	}
}

// plainVXLAN connects two hosts and returns the second one's address in it.
func (c *cell) plainVXLAN(one, two *cellHost) netip.Addr {
	c.t.Helper()
	for i, ends := range [][2]*cellHost{{one, two}, {two, one}} {
		c.must(ends[0].host.do(func() error {
			return netlink.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: "plain", MTU: fallbackMTU - vxlanOverhead},
				VxlanId:   99, Port: 4790, SrcAddr: ends[0].ip.AsSlice(), Group: ends[1].ip.AsSlice(), Learning: true,
			})
		}))
		c.raise(ends[0].host, "plain", netip.AddrFrom4([4]byte{198, 18, 9, byte(i + 1)}).String()+"/24")
	}
	return netip.AddrFrom4([4]byte{198, 18, 9, 2})
}

func (c *cell) pair(b *testing.B, from, to namespace, addr netip.Addr, serve func(net.Conn)) net.Conn {
	b.Helper()
	var ln net.Listener
	c.must(to.do(func() (err error) {
		ln, err = net.Listen("tcp4", netip.AddrPortFrom(addr, 0).String())
		return err
	}))
	defer ln.Close()
	done, accepted := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		close(accepted)
		if err == nil {
			serve(conn)
			_ = conn.Close()
		}
	}()
	conn, err := dial(from, "tcp4", ln.Addr().String())
	c.must(err)
	<-accepted
	b.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return conn
}

func (c *cell) bulk(b *testing.B, from, to namespace, addr netip.Addr) {
	conn := c.pair(b, from, to, addr, func(conn net.Conn) { _, _ = io.Copy(io.Discard, onlyReader{conn}) })
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		_, err := conn.Write(chunk)
		c.must(err)
	}
}

// onlyReader keeps io.Copy from splicing, so both ends read and write alike.
type onlyReader struct{ io.Reader }

func (c *cell) roundTrip(b *testing.B, from, to namespace, addr netip.Addr) {
	conn := c.pair(b, from, to, addr, func(conn net.Conn) {
		buf := make([]byte, 1)
		for {
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	})
	buf := make([]byte, 1)
	for b.Loop() {
		_, err := conn.Write(buf)
		c.must(err)
		_, err = io.ReadFull(conn, buf)
		c.must(err)
	}
}
