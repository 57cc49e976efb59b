package netdp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/netns"
)

// lab is a host of its own: a network namespace that stands for the host, one
// that stands for another machine, a link between them, and a cgroup that only
// this test's sockets are in. The machine's own network is not touched.
type lab struct {
	t       testing.TB
	opts    Options
	host    namespace
	outside namespace
}

const (
	labHostIP    = "198.18.0.1"
	labOutsideIP = "198.18.0.2"
	labUplink    = "up0"
)

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to load programs and make namespaces")
	}
	dir := t.TempDir()
	l := &lab{t: t}
	l.host = l.makeNamespace(filepath.Join(dir, "host"))
	l.outside = l.makeNamespace(filepath.Join(dir, "outside"))
	l.connect()
	l.opts = Options{
		StateDir:   filepath.Join(dir, "state"),
		BPFFSDir:   filepath.Join(dir, "bpf"),
		CgroupRoot: joinTestCgroup(t),
		NodeName:   "lab",
		NodeIPs:    []netip.Addr{netip.MustParseAddr(labHostIP)},
		PodCIDR:    netip.MustParsePrefix("10.64.7.0/24"),
		NetNS:      filepath.Join(dir, "host"),
		Logger:     newTestLogger(t),
	}
	t.Cleanup(func() { _ = unix.Unmount(l.opts.BPFFSDir, unix.MNT_DETACH) }) // when Open failed
	return l
}

func newTestLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

func newBufferLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (l *lab) makeNamespace(path string) namespace {
	l.t.Helper()
	err := netns.Create("", path, func(*os.File) error {
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nl.Close()
		lo, err := nl.LinkByName("lo")
		if err != nil {
			return err
		}
		return nl.LinkSetUp(lo)
	})
	l.must(err)
	ns, err := openNamespace(path)
	l.must(err)
	l.t.Cleanup(func() {
		ns.close()
		if err := netns.Unpin(path); err != nil {
			l.t.Error(err)
		}
	})
	return ns
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// connect joins the host and the other machine by a veth pair.
func (l *lab) connect() {
	l.t.Helper()
	l.must(l.host.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			// What frames of tests are for.
			LinkAttrs: netlink.LinkAttrs{Name: labUplink, HardwareAddr: net.HardwareAddr{2, 2, 2, 2, 2, 2}}, PeerName: labUplink,
			PeerNamespace: netlink.NsFd(l.outside.file.Fd()),
		})
	}))
	for ns, addr := range map[namespace]string{l.host: labHostIP, l.outside: labOutsideIP} {
		l.must(ns.do(func() error {
			link, err := netlink.LinkByName(labUplink)
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr(addr + "/24")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return err
			}
			return netlink.LinkSetUp(link)
		}))
	}
	l.must(l.outside.do(func() error { // the other machine reaches pods only through the host
		gw := net.ParseIP(labHostIP)
		return netlink.RouteAdd(&netlink.Route{Gw: gw, Dst: nil})
	}))
}

func (l *lab) open() *Datapath {
	l.t.Helper()
	d, err := Open(context.Background(), l.opts)
	l.must(err)
	return d
}

// openUntilEnd also removes the datapath when the test ends.
func (l *lab) openUntilEnd() *Datapath {
	d := l.open()
	l.t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			l.t.Error(err)
		}
	})
	return d
}

// pod attaches a pod and returns its namespace.
func (l *lab) pod(d *Datapath, uid string) (namespace, netip.Addr) {
	l.t.Helper()
	path, ips, err := d.Attach(context.Background(), uid, "default", uid)
	l.must(err)
	ns, err := openNamespace(path)
	l.must(err)
	l.t.Cleanup(ns.close)
	return ns, ips[0]
}

// cgroup2Mount finds the unified hierarchy, which is at /sys/fs/cgroup or, on a
// hybrid layout, below it.
func cgroup2Mount(t testing.TB) string {
	data, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("needs a cgroup2 mount")
	return ""
}

// joinTestCgroup moves this process into a cgroup of its own until the test ends.
func joinTestCgroup(t testing.TB) string {
	t.Helper()
	root := cgroup2Mount(t)
	dir, err := os.MkdirTemp(root, "shoal-netdp-test-")
	if err != nil {
		t.Fatal(err)
	}
	was := ownCgroup(t)
	if err := enterCgroup(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := enterCgroup(filepath.Join(root, was)); err != nil {
			t.Error(err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func enterCgroup(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// outsideCgroup runs f where the datapath's programs do not see its sockets.
func (l *lab) outsideCgroup(f func()) {
	l.t.Helper()
	l.must(enterCgroup(cgroup2Mount(l.t)))
	defer func() { l.must(enterCgroup(l.opts.CgroupRoot)) }()
	f()
}

// askOutside is ask of another machine: its sockets belong to no program of ours.
func (l *lab) askOutside(network, addr string) (answer string) {
	l.t.Helper()
	l.outsideCgroup(func() { answer = l.ask(l.outside, network, addr) })
	return answer
}

func ownCgroup(t testing.TB) string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	t.Fatal("process is in no cgroup2")
	return ""
}

// serveTCP answers every connection in ns with name and keeps it open to echo.
func (l *lab) serveTCP(ns namespace, addr, name string) {
	l.t.Helper()
	var ln net.Listener
	l.must(ns.do(func() (err error) {
		ln, err = net.Listen("tcp"+familyName(addr), addr)
		return err
	}))
	l.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go echoTCP(c, name)
		}
	}()
}

// familyName ends the name of a network: 6 for [address]:port, else 4.
func familyName(addr string) string {
	if strings.HasPrefix(addr, "[") {
		return "6"
	}
	return "4"
}

func echoTCP(c net.Conn, name string) {
	defer c.Close()
	buf := make([]byte, 1024)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "%s %s %s", name, c.RemoteAddr().(*net.TCPAddr).IP, buf[:n]); err != nil {
			return
		}
	}
}

// dial connects from within ns.
func dial(ns namespace, network, addr string) (c net.Conn, err error) {
	err = ns.do(func() error {
		c, err = net.DialTimeout(network, addr, ioTimeout)
		return err
	})
	return c, err
}

// call sends one message and returns the answer.
func call(c net.Conn, message string) (string, error) {
	if err := c.SetDeadline(deadline()); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(message)); err != nil {
		return "", err
	}
	buf := make([]byte, 1024)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// ask connects, sends one message, and returns the answer.
func (l *lab) ask(ns namespace, network, addr string) string {
	l.t.Helper()
	c, err := dial(ns, network, addr)
	l.must(err)
	defer c.Close()
	answer, err := call(c, "hello")
	l.must(err)
	return answer
}
