package netdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// inject sends frames as they are by the other machine's link.
func (l *lab) inject(frames ...[]byte) {
	l.t.Helper()
	l.injectBy(labUplink, frames...)
}

func (l *lab) injectBy(device string, frames ...[]byte) {
	l.t.Helper()
	l.must(l.outside.do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// tagged is a frame of a VLAN (IEEE 802.1Q).
func tagged(b []byte, vlan uint16) []byte {
	return slices.Insert(slices.Clone(b), 12, 0x81, 0x00, byte(vlan>>8), byte(vlan))
}

// Frames of a VLAN are for the interface above the uplink that has its number, which
// the kernel finds after the uplink's program; a tag that has a priority alone is none.
func TestFramesOfVLANsAreLeftAlone(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	_, pod := l.pod(d, "server")
	l.must(d.SetService(Service{Key: "web", Proto: UDP, Frontends: []Frontend{{Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(pod, 80)}}}))
	const plain, ofVLAN, priority = 40000, 40001, 40002
	from := func(port int) []byte {
		return frame{src: fmt.Sprintf("%s:%d", labOutsideIP, port), dst: labHostIP + ":30080", proto: UDP, payload: "hello"}.bytes()
	}
	clients := func() map[uint16]bool {
		out := map[uint16]bool{}
		l.must(readMap(d.maps[bpf.DatapathMapFlows], func(k bpf.DatapathFlowKey, _ bpf.DatapathFlow) {
			if k.Direction == 0 {
				out[binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, k.Sport))] = true
			}
		}))
		return out
	}
	l.inject(tagged(from(ofVLAN), 5), tagged(from(ofVLAN), 5|7<<13), tagged(from(priority), 7<<13), from(plain))
	l.until("frames of the uplink itself are taken", func() bool { c := clients(); return c[plain] && c[priority] })
	if clients()[ofVLAN] {
		t.Error("a frame of a VLAN is taken for the uplink's")
	}
}
