package netdp

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// A stream between pods of two hosts arrives whole, in segments that the kernel cut and
// has put together again, and neither host's tunnel device has a part in it.
func TestStreamThroughTunnel(t *testing.T) {
	c := makeCell(t, true, []string{"near1", "far2"})
	c.meet()
	near, far := c.hosts[0], c.hosts[1]
	from, _ := near.pod(near.dp, "sender")
	to, ip := far.pod(far.dp, "receiver")
	count := func(h *cellHost, device string) *netlink.LinkStatistics {
		link, err := h.dp.nl.LinkByName(device)
		c.must(err)
		return link.Attrs().Statistics
	}
	podLink := func() (s *netlink.LinkStatistics) {
		c.must(to.do(func() error {
			link, err := netlink.LinkByName(podLinkName)
			if err == nil {
				s = link.Attrs().Statistics
			}
			return err
		}))
		return s
	}
	data := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	for _, addr := range []netip.Addr{ip, far.dp.pods.byUID["receiver"].record.Address6} {
		var ln net.Listener
		c.must(to.do(func() (err error) {
			ln, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
			return err
		}))
		got := make(chan [32]byte, 1)
		go func() {
			hash := sha256.New()
			if conn, err := ln.Accept(); err == nil {
				_, _ = io.Copy(hash, conn)
				_ = conn.Close()
			}
			got <- [32]byte(hash.Sum(nil))
		}()
		conn, err := dial(from, "tcp", ln.Addr().String())
		c.must(err)
		sent, received := count(near, tunnelDevice).TxPackets, count(far, tunnelDevice).RxPackets
		segments, whole := count(far, gatherDevice).TxPackets, podLink().RxPackets
		c.must(conn.SetDeadline(deadline()))
		_, err = conn.Write(data)
		c.must(err)
		c.must(conn.Close())
		if <-got != sha256.Sum256(data) {
			t.Errorf("%s: what arrived differs", addr)
		}
		if n := count(near, tunnelDevice).TxPackets - sent; n > 0 {
			t.Errorf("%s: %d packets were sent by %s", addr, n, tunnelDevice)
		}
		if n := count(far, tunnelDevice).RxPackets - received; n > 0 {
			t.Errorf("%s: %d packets were received by %s", addr, n, tunnelDevice)
		}
		segments, whole = count(far, gatherDevice).TxPackets-segments, podLink().RxPackets-whole
		if segments < uint64(len(data)/fallbackMTU) || whole > segments/2 {
			t.Errorf("%s: of %d segments %d packets were made", addr, segments, whole)
		}
		_ = ln.Close()
	}
}
