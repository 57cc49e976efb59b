package netdp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// The gathering link is a veth pair of the host's to itself. The uplinks' programs send
// by one end what they have taken out of the tunnel and is part of a stream; the other
// end's queue puts segments together (GRO), and its program hands them to pods
// (bpf/vxlan.h). The stack has no address, and no route, by either.
const (
	gatherDevice   = "shoal-gather"
	gatheredDevice = "shoal-gathered"
	// gatherMTU lets everything by, whatever the uplinks' MTU.
	gatherMTU = 65535
)

// ensureGather makes the link, or takes over an earlier daemon's, and has the programs
// use it. Without it the tunnel's device gathers.
func (d *Datapath) ensureGather() error {
	link, err := d.nl.LinkByName(gatherDevice)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		link, err = d.makeGather()
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", gatherDevice, err)
	}
	return d.useGather(link)
}

func (d *Datapath) makeGather() (netlink.Link, error) {
	// A queue for each processor, as each has its own in the tunnel's device.
	queues := runtime.NumCPU()
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: gatherDevice, MTU: gatherMTU, TxQLen: -1, NumTxQueues: queues, NumRxQueues: queues},
		PeerName:  gatheredDevice, PeerMTU: gatherMTU, PeerTxQLen: -1,
		PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	}
	if err := d.nl.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("make link %s: %w", gatherDevice, err)
	}
	link, err := d.nl.LinkByName(gatherDevice)
	if err != nil {
		return nil, err
	}
	err = d.host.do(func() error {
		for _, name := range []string{gatherDevice, gatheredDevice} {
			if err := writeSysctl("1", "net/ipv6/conf", name, "disable_ipv6"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			end, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := firstError(netlink.LinkSetARPOff(end), netlink.LinkSetUp(end)); err != nil {
				return err
			}
		}
		// The kernel gathers only what the sending end could not have sent in one.
		return firstError(
			setOffload(gatherDevice, ethtoolSetTSO, 0),
			setOffload(gatheredDevice, ethtoolSetGRO, 1),
		)
	})
	if err != nil {
		return nil, errors.Join(err, d.nl.LinkDel(link))
	}
	return link, nil
}

func (d *Datapath) useGather(link netlink.Link) error {
	end, err := d.nl.LinkByName(gatheredDevice)
	if err != nil {
		return err
	}
	if err := d.filterDevice(end.Attrs().Index, netlink.HANDLE_MIN_INGRESS, "gather_ingress", d.progs[bpf.DatapathProgGatherIngress]); err != nil {
		return err
	}
	return d.gather.Set(uint32(link.Attrs().Index))
}

const (
	ethtoolSetTSO = 0x1f // include/uapi/linux/ethtool.h
	ethtoolSetGRO = 0x2c
)

// setOffload switches something that a device does for the stack.
func setOffload(device string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	what := [2]uint32{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&what)}
	copy(request.name[:], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("set offload %#x of %s to %d: %w", command, device, value, errno)
	}
	return nil
}
