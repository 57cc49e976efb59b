package testbed

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal/netdp/driver"
)

// Network gives every pod a network namespace with a veth pair whose other
// end stays, unconfigured, on the host.
type Network struct {
	Dir    string // namespaces are pinned here
	Prefix string // of host link names, at most 4 characters

	mu   sync.Mutex
	next byte
	pods map[string]attachment // guarded by mu
}

type attachment struct {
	link string
	ip   netip.Addr
}

// LinkPrefix begins the names of the network's host links. The process is in it:
// several test at once on one machine.
func (n *Network) LinkPrefix() string { return fmt.Sprintf("%s%x.", n.Prefix, os.Getpid()) }

func (n *Network) path(uid string) string { return filepath.Join(n.Dir, uid) }

// Attach makes the pod's namespace, or takes the one that is there already.
func (n *Network) Attach(_ context.Context, pod driver.Pod) (driver.Attachment, error) {
	uid := pod.UID
	none := driver.Attachment{}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods == nil {
		n.pods = map[string]attachment{}
	}
	if a, ok := n.pods[uid]; ok {
		return driver.Attachment{NetNS: n.path(uid), Addresses: []netip.Addr{a.ip}}, nil
	}
	n.next++
	a := attachment{link: fmt.Sprintf("%s%d", n.LinkPrefix(), n.next), ip: netip.AddrFrom4([4]byte{10, 99, 0, n.next})}
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return none, err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with this goroutine
		done <- pinNetns(pod.NetNS, n.path(uid))
	}()
	if err := <-done; err != nil {
		return none, err
	}
	if err := addVeth(a, n.path(uid)); err != nil {
		return none, err
	}
	n.pods[uid] = a
	return driver.Attachment{NetNS: n.path(uid), Addresses: []netip.Addr{a.ip}}, nil
}

func enterNetns(given string) error {
	if given == "" {
		return unix.Unshare(unix.CLONE_NEWNET)
	}
	fd, err := unix.Open(given, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, unix.CLONE_NEWNET)
}

func pinNetns(given, path string) error {
	if err := enterNetns(given); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin network namespace: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func addVeth(a attachment, path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(fd)}
	veth.Name = a.link
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", a.link, err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(fd))
	if err != nil {
		return err
	}
	defer h.Close()
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.ip.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	if err := h.AddrAdd(eth, addr); err != nil {
		return err
	}
	return h.LinkSetUp(eth)
}

// Detach removes the pod's namespace and link.
func (n *Network) Detach(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.pods[uid]
	if !ok {
		return nil
	}
	if link, err := netlink.LinkByName(a.link); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			return err
		}
	}
	_ = unix.Unmount(n.path(uid), unix.MNT_DETACH)
	delete(n.pods, uid)
	return os.Remove(n.path(uid))
}

// Attached lists the pods with a namespace.
func (n *Network) Attached(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for uid := range n.pods {
		out = append(out, uid)
	}
	return out, nil
}
