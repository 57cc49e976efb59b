package netdp

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/netns"
)

const ownEnv = "SHOAL_NETDP_OWN"

// A daemon that is given no namespace serves its own. The child stands for
// such a daemon: it starts in a namespace made for it.
func TestOwnNamespace(t *testing.T) {
	l := newLab(t)
	l.opts.NetNS = ""
	data, err := json.Marshal(struct {
		Options
		Logger any
	}{Options: l.opts})
	l.must(err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestOwnNamespaceChild$", "-test.v")
	cmd.Env = append(os.Environ(), ownEnv+"="+string(data))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestOwnNamespaceChild") {
		t.Errorf("child: %v\n%s", err, out)
	}
}

func TestOwnNamespaceChild(t *testing.T) {
	data := os.Getenv(ownEnv)
	if data == "" {
		t.Skip("only runs as a child of TestOwnNamespace")
	}
	l := &lab{t: t}
	l.must(json.Unmarshal([]byte(data), &l.opts))
	l.opts.Logger = newTestLogger(t)
	lo, err := netlink.LinkByName("lo")
	l.must(err)
	l.must(netlink.LinkSetUp(lo))
	addr, err := netlink.ParseAddr(labHostIP + "/32")
	l.must(err)
	l.must(netlink.AddrAdd(lo, addr))

	d := l.openUntilEnd()
	var wg sync.WaitGroup
	for i := range 20 { // many at once, so that every thread gets its turn
		wg.Go(func() {
			uid := string(rune('a' + i))
			ns, ip := l.pod(d, uid)
			l.serveTCP(ns, ":80", uid)
			c, err := net.DialTimeout("tcp4", ip.String()+":80", ioTimeout)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if got, err := call(c, "hello"); err != nil || got != uid+" "+labHostIP+" hello" {
				t.Errorf("got %q, %v", got, err)
			}
			setting, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + hostLinkName(uid) + "/forwarding")
			if err != nil || string(setting) != "1\n" {
				t.Errorf("the host's end forwards: %q, %v", setting, err)
			}
		})
	}
	wg.Wait()
	udp := Service{Key: "dns", Proto: UDP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.53"), Port: 53}},
		Backends: []Backend{{Addr: netip.MustParseAddrPort(labHostIP + ":5353")}}}
	l.must(d.SetService(udp))
	c, err := net.Dial("udp4", "10.0.0.53:53")
	l.must(err)
	defer c.Close()
	l.must(c.SetReadDeadline(deadline()))
	l.must(d.DeleteService("dns"))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the host's own UDP socket was not ended: %v", err)
	}
	if err := d.Detach(context.Background(), "a"); err != nil {
		t.Error(err)
	}
}

func TestFirstThreadIsNeverUsed(t *testing.T) {
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			_ = netns.OnOwnThread(func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("work was done on the first thread")
				}
				return nil
			})
		})
	}
	wg.Wait()
}
