package netdp

import (
	"fmt"
	"net"
	"testing"
)

// What comes by the tunnel with this host's own address is not from it, and reaches
// no pod.
func TestOwnAddressByTheTunnel(t *testing.T) {
	c := newCell(t, "near1", "far2")
	c.meet()
	first, other := c.hosts[0], c.hosts[1]
	ns, ip := first.pod(first.dp, "server")
	var server net.PacketConn
	c.must(ns.do(func() (err error) {
		server, err = net.ListenPacket("udp4", ":1000")
		return err
	}))
	defer server.Close()
	conn, err := dial(other.host, "udp4", fmt.Sprintf("%s:%d", first.ip, DefaultVXLANPort))
	c.must(err)
	defer conn.Close()
	for _, from := range []string{first.ip.String(), "10.64.2.7"} {
		f := frame{src: from + ":5000", dst: ip.String() + ":1000", proto: UDP, payload: from}
		_, err = conn.Write(append([]byte{8, 0, 0, 0, 0, 0, DefaultVNI, 0}, f.bytes()...))
		c.must(err)
	}
	c.must(server.SetReadDeadline(deadline()))
	buf := make([]byte, 100)
	n, _, err := server.ReadFrom(buf)
	c.must(err)
	if got := string(buf[:n]); got != "10.64.2.7" {
		t.Errorf("the pod got what seems to come from %s", got)
	}
}
