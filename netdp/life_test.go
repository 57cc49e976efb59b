package netdp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/netdp/netns"
)

func TestConnectionsOutliveTheDaemon(t *testing.T) {
	l := newLab(t)
	d := l.open()
	server, serverIP := l.pod(d, "server")
	client, _ := l.pod(d, "client")
	l.serveTCP(server, ":80", "server")
	service := Service{Key: "web", Proto: TCP, Backends: []Backend{{Addr: netip.AddrPortFrom(serverIP, 80)}},
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
	l.must(d.SetService(service))
	l.must(d.SetService(Service{Key: "gone", Proto: UDP, Frontends: []Frontend{{Port: 30090}}}))
	l.must(d.SyncComplete())

	paths := []struct {
		from namespace
		to   string
	}{{client, "10.0.0.10:80"}, {l.host, "10.0.0.10:80"}, {l.outside, labHostIP + ":30080"}}
	var open []net.Conn
	for _, p := range paths {
		c, err := dial(p.from, "tcp4", p.to)
		l.must(err)
		defer c.Close()
		open = append(open, c)
	}
	check := func(when string) {
		t.Helper()
		for i, p := range paths {
			if _, err := call(open[i], "old"); err != nil {
				t.Errorf("%s: open connection to %s: %v", when, p.to, err)
			}
			c, err := dial(p.from, "tcp4", p.to)
			if err != nil {
				t.Errorf("%s: new connection to %s: %v", when, p.to, err)
				continue
			}
			if _, err := call(c, "new"); err != nil {
				t.Errorf("%s: new connection to %s: %v", when, p.to, err)
			}
			_ = c.Close()
		}
	}
	check("before")
	l.must(d.Close())
	check("without a daemon")
	d = l.openUntilEnd()
	check("with a new daemon that knows nothing yet")
	if got := kernelServices(t, d); !slices.Contains(got, "UDP node:30090 -> ") {
		t.Errorf("something was dropped before the sync was complete: %q", got)
	}
	l.must(d.SetService(service))
	l.must(d.SyncComplete())
	check("after its sync")
	want := []string{"TCP 10.0.0.10:80 -> " + serverIP.String() + ":80", "TCP node:30080 -> " + serverIP.String() + ":80"}
	if got := kernelServices(t, d); !slices.Equal(got, want) {
		t.Errorf("kernel has %q, want %q", got, want)
	}
	path, ips, err := d.Attach(context.Background(), "server", "default", "server")
	if err != nil || ips[0] != serverIP || path != filepath.Join(l.opts.StateDir, "netns", "server") {
		t.Errorf("the pod is now at %s %v, %v", path, ips, err)
	}
	check("after its pod was attached again")
}

// After an upgrade that changes a map's shape, the old programs with their maps
// serve until the new maps are filled.
func TestChangedLayoutLeavesNoGap(t *testing.T) {
	l := newLab(t)
	d := l.open()
	server, serverIP := l.pod(d, "server")
	client, _ := l.pod(d, "client")
	l.serveTCP(server, ":80", "server")
	service := Service{Key: "web", Proto: TCP, Backends: []Backend{{Addr: netip.AddrPortFrom(serverIP, 80)}},
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}
	l.must(d.SetService(service))
	l.must(d.SyncComplete())
	check := func() {
		t.Helper()
		l.ask(client, "tcp4", "10.0.0.10:80")
		l.ask(l.outside, "tcp4", labHostIP+":30080")
	}
	check()
	l.must(d.Close())
	for _, name := range append(serviceMapNames, "pods", "flows") { // as if they had other names
		pin := layoutNames(d.specs)[name]
		l.must(os.Rename(filepath.Join(d.pins.mapsDir(), pin), filepath.Join(d.pins.mapsDir(), name+"-old")))
	}
	d = l.openUntilEnd()
	check()
	l.must(d.SetService(service))
	check()
	l.must(d.SyncComplete())
	check()
	found, err := names(d.pins.mapsDir())
	l.must(err)
	for _, name := range found {
		if strings.HasSuffix(name, "-old") {
			t.Errorf("%s is still pinned", name)
		}
	}
}

func TestWithoutTCX(t *testing.T) {
	l := newLab(t)
	l.opts.noTCX = true
	before := l.traces()
	d := l.open()
	server, ip := l.pod(d, "server")
	l.serveTCP(server, ":80", "server")
	service := Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}}
	l.must(d.SetService(service))
	l.ask(l.outside, "tcp4", labHostIP+":30080")
	l.must(d.Close())
	l.ask(l.outside, "tcp4", labHostIP+":30080")
	d = l.open()
	l.ask(l.outside, "tcp4", labHostIP+":30080")
	link, err := d.nl.LinkByName(labUplink)
	l.must(err)
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := d.nl.FilterList(link, parent)
		if err != nil || len(filters) != 1 {
			t.Errorf("%d filters on the uplink after a restart, want 1: %v", len(filters), err)
		}
	}
	l.must(d.removeUplinks())
	filters, err := d.nl.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil || len(filters) != 0 {
		t.Errorf("%d filters left, %v", len(filters), err)
	}
	l.must(d.Remove())
	if after := l.traces(); !slices.Equal(after, before) {
		t.Errorf("after Remove:\n%s\nbefore Open:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	l := newLab(t)
	l.openUntilEnd()
	if _, err := Open(context.Background(), l.opts); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
}

func TestAddressesSurviveAndRest(t *testing.T) {
	l := newLab(t)
	d := l.open()
	_, first := l.pod(d, "first")
	_, second := l.pod(d, "second")
	l.must(d.Detach(context.Background(), "first"))
	l.must(d.Close())
	d = l.openUntilEnd()
	_, third := l.pod(d, "third")
	if third == first || third == second {
		t.Errorf("got %s again; %s was just freed and %s is in use", third, first, second)
	}
	if _, again := l.pod(d, "second"); again != second {
		t.Errorf("the pod's address changed from %s to %s", second, again)
	}
}

// A daemon killed in the middle of an Attach leaves a record and some of what
// it stands for.
func TestHalfMadePod(t *testing.T) {
	for name, harm := range map[string]func(*lab, *Datapath){
		"no link":      func(l *lab, d *Datapath) { l.must(d.deleteLink(hostLinkName("pod"))) },
		"no namespace": func(l *lab, d *Datapath) { l.must(netns.Unpin(d.pods.records.netns("pod"))) },
		"nothing made yet": func(l *lab, d *Datapath) {
			rec := d.pods.byUID["pod"].record
			rec.Made = false
			l.must(errors.Join(d.clearPod(rec), d.pods.records.Save(rec)))
		},
		"link down": func(l *lab, d *Datapath) {
			link, err := d.nl.LinkByName(hostLinkName("pod"))
			l.must(err)
			l.must(d.nl.LinkSetDown(link))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			d := l.open()
			_, was := l.pod(d, "pod")
			harm(l, d)
			l.must(d.Close())
			d = l.openUntilEnd()
			pod, now := l.pod(d, "pod")
			if now != was {
				t.Errorf("address changed from %s to %s", was, now)
			}
			l.serveTCP(pod, ":80", "pod")
			l.ask(l.host, "tcp4", now.String()+":80")
		})
	}
}

// traces lists whatever the datapath could leave behind on this machine.
func (l *lab) traces() []string {
	l.t.Helper()
	var out []string
	l.must(l.host.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, link := range links {
			out = append(out, "link "+link.Attrs().Name)
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			out = append(out, fmt.Sprintf("route %v %d", r.Dst, r.Type))
		}
		return nil
	}))
	mounts, err := os.ReadFile("/proc/self/mounts")
	l.must(err)
	l.must(l.host.do(func() error {
		forwarding, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + labUplink + "/forwarding")
		out = append(out, "forwarding "+string(forwarding))
		return err
	}))
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[1], filepath.Dir(l.opts.StateDir)) {
			out = append(out, "mount "+f[1])
		}
	}
	err = filepath.WalkDir(l.opts.StateDir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != "last-address" {
			out = append(out, "file "+path)
		}
		return nil
	})
	l.must(err)
	slices.Sort(out)
	return out
}

func TestDetachLeavesNothing(t *testing.T) {
	l := newLab(t)
	before := l.traces()
	d := l.open()
	opened := l.traces()
	each100(func() {}) // warm
	for i := range 50 {
		l.pod(d, fmt.Sprint("pod-", i))
	}
	uids, err := d.Attached(context.Background())
	l.must(err)
	if len(uids) != 50 {
		t.Fatalf("%d pods attached", len(uids))
	}
	for _, uid := range uids {
		l.must(d.Detach(context.Background(), uid))
		l.must(d.Detach(context.Background(), uid))
	}
	if after := l.traces(); !slices.Equal(after, opened) {
		t.Errorf("after detaching all:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(opened, "\n"))
	}
	var key, value []byte
	if it := d.maps["pods"].Iterate(); it.Next(&key, &value) {
		t.Error("the kernel still has a pod")
	}
	l.pod(d, "last")
	l.must(d.Remove())
	if after := l.traces(); !slices.Equal(after, before) {
		t.Errorf("after Remove:\n%s\nbefore Open:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

func TestNoNetfilterRules(t *testing.T) {
	for _, tool := range []string{"iptables-save", "ip6tables-save", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s to see the rules", tool)
		}
	}
	l := newLab(t)
	before := l.rules()
	d := l.openUntilEnd()
	server, ip := l.pod(d, "server")
	l.serveTCP(server, ":80", "server")
	l.must(d.SetService(Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Port: 30080}},
		Backends: []Backend{{Addr: netip.AddrPortFrom(ip, 80)}}}))
	l.ask(l.outside, "tcp4", labHostIP+":30080")
	if after := l.rules(); after != before {
		t.Errorf("rules before:\n%s\nand after:\n%s", before, after)
	}
}

func (l *lab) rules() string {
	l.t.Helper()
	var out []byte
	l.must(l.host.do(func() error { // a child starts in its parent thread's namespace
		for _, args := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}} {
			o, err := exec.Command(args[0], args[1:]...).Output()
			if err != nil {
				return fmt.Errorf("run %s: %w", args[0], err)
			}
			for line := range strings.Lines(string(o)) {
				if !strings.HasPrefix(line, "#") { // these have the time
					out = append(out, line...)
				}
			}
		}
		return nil
	}))
	return string(out)
}
