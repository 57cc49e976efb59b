package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"shoal/netdp/driver"
	"shoal/netdp/netns"
)

// packaged is where Debian's containernetworking-plugins puts the reference
// plugins.
const packaged = "/usr/lib/cni"

// lab is a host of its own, a network namespace, with directories of
// configurations, plugins and state.
type lab struct {
	t    testing.TB
	o    Options
	host string // path of its namespace
	dir  string // of what plugins write: leases, and what the test's own saw
	d    *Driver
}

const labNetwork = "lab"

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	if _, err := os.Stat(filepath.Join(packaged, "bridge")); err != nil {
		t.Skip("needs the reference plugins; install containernetworking-plugins")
	}
	dir := t.TempDir()
	l := &lab{t: t, dir: filepath.Join(dir, "plugins"), host: filepath.Join(dir, "host")}
	l.must(netns.Create("", l.host, raiseLoopback))
	t.Cleanup(func() { l.must(netns.Unpin(l.host)) })
	l.o = Options{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{packaged, linkPlugins(t)},
		StateDir: filepath.Join(dir, "state"), NetNSDir: filepath.Join(dir, "netns"), NetNS: l.host,
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.64.7.0/24")},
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	l.must(os.MkdirAll(l.dir, 0o755))
	l.must(os.MkdirAll(l.o.ConfDir, 0o755))
	l.open()
	t.Cleanup(l.end)
	return l
}

// end has nothing left when a test failed in between.
func (l *lab) end() {
	uids, _ := l.d.Attached(context.Background())
	for _, uid := range uids {
		if err := l.d.Detach(context.Background(), uid); err != nil {
			l.t.Error(err)
			_ = netns.Unpin(l.d.pin(uid))
		}
	}
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// open is what a daemon does at its start.
func (l *lab) open() {
	l.t.Helper()
	var err error
	l.d, err = Open(l.o)
	l.must(err)
}

// configure has a bridge and then plugins of the test's own.
func (l *lab) configure(behind ...string) {
	l.t.Helper()
	plugins := []map[string]any{{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		"capabilities": map[string]bool{"ipRanges": true},
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(l.dir, "leases"),
			"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		},
	}}
	for _, name := range behind {
		plugins = append(plugins, map[string]any{
			"type": name, "testDir": l.dir,
			"capabilities": map[string]bool{"portMappings": true, "bandwidth": true, "dns": true},
		})
	}
	data, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": labNetwork, "plugins": plugins})
	l.must(err)
	l.must(os.WriteFile(filepath.Join(l.o.ConfDir, "10-lab.conflist"), data, 0o600))
}

func labPod(uid string) driver.Pod {
	return driver.Pod{UID: uid, Namespace: "default", Name: "pod-" + uid}
}

func (l *lab) attach(uid string) driver.Attachment {
	l.t.Helper()
	got, err := l.d.Attach(context.Background(), labPod(uid))
	l.must(err)
	return got
}

func (l *lab) detach(uid string) {
	l.t.Helper()
	l.must(l.d.Detach(context.Background(), uid))
}

// inside runs f on a thread in a network namespace.
func (l *lab) inside(path string, f func() error) {
	l.t.Helper()
	l.must(netns.OnOwnThread(func() error {
		if err := netns.Enter(path); err != nil {
			return err
		}
		return f()
	}))
}

// links are the host's, but for loopback.
func (l *lab) links() (names []string) {
	l.t.Helper()
	l.inside(l.host, func() error {
		list, err := netlink.LinkList()
		for _, link := range list {
			if link.Attrs().Name != "lo" {
				names = append(names, link.Attrs().Name)
			}
		}
		return err
	})
	return names
}

// leases are the addresses that host-local has given out.
func (l *lab) leases() (addrs []string) {
	l.t.Helper()
	files, err := filepath.Glob(filepath.Join(l.dir, "leases", labNetwork, "[0-9]*"))
	l.must(err)
	for _, f := range files {
		addrs = append(addrs, filepath.Base(f))
	}
	return addrs
}

// left is what the driver keeps on disk, and what is pinned.
func (l *lab) left() (files []string) {
	l.t.Helper()
	for _, dir := range []string{l.o.StateDir, l.o.NetNSDir} {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err == nil && !e.IsDir() {
				files = append(files, path)
			}
			return err
		})
		l.must(err)
	}
	return files
}

// nothingLeft: only the bridge stays, which its plugin keeps for the next pod.
func (l *lab) nothingLeft() {
	l.t.Helper()
	if got := l.left(); len(got) > 0 {
		l.t.Errorf("left on disk: %q", got)
	}
	if got := l.leases(); len(got) > 0 {
		l.t.Errorf("leases left: %q", got)
	}
	// The kernel takes links with their namespace, in its own time.
	for end := time.Now().Add(dialLimit); ; time.Sleep(20 * time.Millisecond) {
		got := l.links()
		if strings.Join(got, " ") == "cni0" {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("links left: %q", got)
		}
	}
}

const dialLimit = 20 * time.Second

// talks has one namespace call a server in the other and get its word.
func (l *lab) talks(from string, to driver.Attachment) {
	l.t.Helper()
	var server net.Listener
	l.inside(to.NetNS, func() (err error) {
		server, err = net.Listen("tcp", netip.AddrPortFrom(to.Addresses[0], 0).String())
		return err
	})
	defer server.Close()
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(conn, conn.RemoteAddr())
		conn.Close()
	}()
	l.inside(from, func() error {
		conn, err := net.DialTimeout("tcp", server.Addr().String(), dialLimit)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(dialLimit))
		said := make([]byte, 64)
		n, err := conn.Read(said)
		if err == nil && string(said[:n]) != conn.LocalAddr().String() {
			return fmt.Errorf("called from %s, seen from %s", conn.LocalAddr(), said[:n])
		}
		return err
	})
}
