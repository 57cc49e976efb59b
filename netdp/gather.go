package netdp

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// The gathering link is a veth pair of the host's to itself. The uplinks' programs send
// by one end what they have taken out of the tunnel and is part of a stream; the other
// end's queues put segments together (GRO), and its program hands them to pods
// (bpf/vxlan.h). The stack has neither an address nor a route by either. Without the
// link, the tunnel's device does it all.
const (
	gatherDevice   = "shoal-gather"
	gatheredDevice = "shoal-gathered"
	// gatherMTU lets everything by, whatever the uplinks' MTU.
	gatherMTU = 65535
)

// ensureGather makes the link when there is none.
func (d *Datapath) ensureGather() error {
	ends, err := d.findGather()
	if err == nil && ends == nil {
		ends, err = d.makeGather()
	}
	if err != nil {
		return err
	}
	return d.useGather(ends)
}

// adoptGather puts this daemon's program in the place of an earlier one's.
func (d *Datapath) adoptGather() error {
	ends, err := d.findGather()
	if err != nil || ends == nil {
		return err
	}
	return d.useGather(ends)
}

// findGather returns both ends of the link, and removes one that is not up.
func (d *Datapath) findGather() (ends []netlink.Link, err error) {
	var missing netlink.LinkNotFoundError
	for _, name := range []string{gatherDevice, gatheredDevice} {
		end, err := d.nl.LinkByName(name)
		if errors.As(err, &missing) || err == nil && end.Attrs().Flags&net.FlagUp == 0 {
			return nil, d.removeGather()
		}
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", name, err)
		}
		ends = append(ends, end)
	}
	return ends, nil
}

func (d *Datapath) makeGather() ([]netlink.Link, error) {
	// One for each processor, as the tunnel's device has: a flow stays on one.
	queues := runtime.NumCPU()
	err := d.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: gatherDevice, MTU: gatherMTU, TxQLen: -1, NumTxQueues: queues, NumRxQueues: queues},
		PeerName:  gatheredDevice, PeerMTU: gatherMTU, PeerTxQLen: -1,
		PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	})
	if err != nil {
		return nil, fmt.Errorf("make link %s: %w", gatherDevice, err)
	}
	err = d.host.do(func() error {
		return firstError(
			raiseGather(gatherDevice),
			raiseGather(gatheredDevice),
			// The kernel gathers what the sending end has to cut.
			setOffload(gatherDevice, ethtoolSetTSO, 0),
			setOffload(gatheredDevice, ethtoolSetGRO, 1),
		)
	})
	if err != nil {
		return nil, errors.Join(err, d.removeGather())
	}
	return d.findGather()
}

func raiseGather(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return firstError(
		writeSettings(linkIPv6Settings(name, false)),
		named("set ARP off on "+name, netlink.LinkSetARPOff(link)),
		named("raise "+name, netlink.LinkSetUp(link)),
	)
}

func (d *Datapath) useGather(ends []netlink.Link) error {
	err := d.filterDevice(ends[1].Attrs().Index, netlink.HANDLE_MIN_INGRESS, "gather_ingress", d.progs[bpf.DatapathProgGatherIngress])
	if err != nil {
		return err
	}
	return d.sendByGather(ends[0].Attrs().Index)
}

// sendByGather tells the uplinks' programs the number of the end to send by; 0: none.
func (d *Datapath) sendByGather(index int) error {
	return named("tell the programs of "+gatherDevice, d.gather.Set(uint32(index)))
}

func (d *Datapath) removeGather() error {
	if err := d.sendByGather(0); err != nil {
		return err
	}
	link, err := d.nl.LinkByName(gatherDevice)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", gatherDevice, err)
	}
	return named("remove "+gatherDevice, d.nl.LinkDel(link))
}

// Of include/uapi/linux/ethtool.h.
const (
	ethtoolSetTSO = 0x1f
	ethtoolSetGRO = 0x2c
)

// setOffload switches what a device of the calling thread's namespace does for the
// stack.
func setOffload(device string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	what := [2]uint32{command, value}
	request := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&what)}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("set offload %#x of %s to %d: %w", command, device, value, errno)
	}
	return nil
}
