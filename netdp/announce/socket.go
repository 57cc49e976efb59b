package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// questionBuffer is how many bytes of questions and claims may wait in the kernel; what is
// beyond is asked again.
const questionBuffer = 256 << 10

// Where the filters look, in bytes from the Ethernet header.
const (
	atARPOperation = etherLen + 6
	atNextHeader   = etherLen + 6
	atICMPType     = etherLen + ip6Len
)

// onlyNeighbours lets through what others ask and say of addresses on this very
// interface: not what is sent here, and not what belongs to a VLAN above it.
func onlyNeighbours(kind uint16) ([]bpf.RawInstruction, error) {
	what := []bpf.Instruction{
		bpf.LoadAbsolute{Off: atARPOperation, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arpRequest, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: arpReply, SkipTrue: 1},
	}
	if kind == etherIPv6 {
		what = []bpf.Instruction{
			bpf.LoadAbsolute{Off: atNextHeader, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMPv6, SkipTrue: 4},
			bpf.LoadAbsolute{Off: atICMPType, Size: 1},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeSolicit, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeAdvertise, SkipTrue: 1},
		}
	}
	n := uint8(len(what))
	program := append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: n + 3},
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: n + 1},
	}, what...)
	return bpf.Assemble(append(program, bpf.RetConstant{Val: 1 << 16}, bpf.RetConstant{}))
}

// openSocket hears the frames of one kind on an interface. It must run in the
// interface's network namespace, and stays there.
func openSocket(index int, kind uint16) (*os.File, error) {
	program, err := onlyNeighbours(kind)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	// Without a protocol nothing comes before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket (CAP_NET_RAW): %w", err)
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, questionBuffer),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(kind), Ifindex: index}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("hear neighbours: %w", err)
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// openGroups returns a socket whose memberships make the interface, and switches
// on the way, let through what is sent to the groups.
func openGroups() (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket for multicast groups: %w", err)
	}
	return fd, nil
}

func joinGroup(fd, index int, group netip.Addr) error {
	m := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, m); err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("join group %s: %w", group, err)
	}
	return nil
}

func leaveGroup(fd, index int, group netip.Addr) error {
	m := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)}
	return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, m)
}

// interfaceOf finds an Ethernet interface that is up.
func interfaceOf(name string) (index int, mac net.HardwareAddr, err error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return 0, nil, fmt.Errorf("find interface: %w", err)
	}
	if len(ifi.HardwareAddr) != 6 || ifi.Flags&net.FlagUp == 0 {
		return 0, nil, errors.New("it is down, or no Ethernet interface")
	}
	return ifi.Index, ifi.HardwareAddr, nil
}
