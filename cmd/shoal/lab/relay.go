//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// relayReady is what a relay prints once it carries the link's frames.
	relayReady = "ready"
	// maxFrame is the longest a device hands over: 64 KB of segments to be cut
	// later, its headers, and the header that says how to cut.
	maxFrame = 66 << 10
	// maxQueued bounds the frames and bytes under way in one direction, as a
	// queue discipline does; what comes on top is lost.
	maxQueuedFrames = 8192
	maxQueuedBytes  = 32 << 20
)

// relay carries the frames of one link between its port and a tap device that
// stands on the bridge in the port's place, later than they came and not all of
// them. Both ends exchange frames with a virtio header, so that unfinished
// checksums and unsegmented data pass as they are. It returns when ctx ends or
// the port goes away, and the tap device is gone then.
func relay(ctx context.Context, port, tap, bridge string, shape Shape, out io.Writer) error {
	portLink, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find link %s: %w", port, err)
	}
	socket, err := openPort(portLink.Attrs().Index)
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	device, err := openTap(tap)
	if err != nil {
		return err
	}
	defer func() { _ = device.Close() }()
	if err := replace(portLink, tap, bridge); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, relayReady); err != nil {
		return fmt.Errorf("say that the relay is ready: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { // unblocks the readers
		_ = socket.Close()
		_ = device.Close()
	})()
	carry(ctx, group, socket, device, shape)
	carry(ctx, group, device, socket, shape)
	return group.Wait()
}

// openPort returns a packet socket that sees what arrives on a link and sends
// on it.
func openPort(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("set packet socket option %d: %w; it needs Linux 4.20", option, err)
		}
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "port"), nil
}

// openTap makes a tap device that lives as long as the file.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w; slow links need a kernel with CONFIG_TUN", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("name tap device %q: %w", name, err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make tap device %s: %w", name, err)
	}
	const offload = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set tap device %s up for offload: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// replace puts the tap device on the bridge where the port was.
func replace(port netlink.Link, tap, bridge string) error {
	bridgeLink, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	tapLink, err := netlink.LinkByName(tap)
	if err != nil {
		return fmt.Errorf("find tap device %s: %w", tap, err)
	}
	if err := netlink.LinkSetNoMaster(port); err != nil {
		return fmt.Errorf("take %s off the bridge: %w", port.Attrs().Name, err)
	}
	if err := netlink.LinkSetMaster(tapLink, bridgeLink); err != nil {
		return fmt.Errorf("put %s on the bridge: %w", tap, err)
	}
	if err := netlink.LinkSetUp(tapLink); err != nil {
		return fmt.Errorf("set %s up: %w", tap, err)
	}
	return nil
}

// late is a frame under way.
type late struct {
	due   time.Time
	frame []byte
}

// carry moves frames one way until either end fails or ctx ends.
func carry(ctx context.Context, group *errgroup.Group, from, to *os.File, shape Shape) {
	queue := make(chan late, maxQueuedFrames)
	var queued atomic.Int64
	group.Go(func() error {
		defer close(queue)
		buffer := make([]byte, maxFrame)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				return fmt.Errorf("read frame from %s: %w", from.Name(), err)
			}
			if rand.Float64()*100 < shape.LossPercent || queued.Load()+int64(n) > maxQueuedBytes {
				continue
			}
			queued.Add(int64(n))
			select {
			case queue <- late{time.Now().Add(shape.Delay), append([]byte(nil), buffer[:n]...)}:
			default:
				queued.Add(-int64(n))
			}
		}
	})
	group.Go(func() error {
		for l := range queue {
			if wait := time.Until(l.due); wait > 0 {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(wait):
				}
			}
			queued.Add(-int64(len(l.frame)))
			// A device that is down or full loses the frame, as any does; a link
			// that is gone ends the reader.
			_, _ = to.Write(l.frame)
		}
		return nil
	})
}
