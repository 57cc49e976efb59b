package netdp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/bpf"
)

// What somebody takes away of the datapath is noticed, named and put back, and
// services go on to answer.
func TestRepair(t *testing.T) {
	for _, c := range []struct {
		name  string
		noTCX bool
		// breaks takes something away, and says whether services still answer.
		breaks  func(l *lab, d *Datapath)
		answers bool
		found   []string // how many repairs, by their words
	}{
		{"a program is detached from the cgroup", false, func(l *lab, d *Datapath) {
			l.must(d.links[d.pins.link(bpf.DatapathProgSockConnect4)].Detach())
		}, false, []string{"program sock_connect4 was detached"}},
		{"a link's pin is removed", false, func(l *lab, d *Datapath) {
			l.must(os.Remove(d.pins.link(bpf.DatapathProgSockConnect4)))
		}, true, []string{"the pin of program sock_connect4 was removed"}},
		{"a link is detached and its pin removed", false, func(l *lab, d *Datapath) {
			path := d.pins.link(bpf.DatapathProgSockConnect4)
			l.must(d.links[path].Detach())
			l.must(os.Remove(path))
		}, false, []string{"program sock_connect4 was detached"}},
		{"an uplink's program is detached", false, func(l *lab, d *Datapath) {
			l.must(d.links[d.pins.link("uplink_ingress-"+labUplink)].Detach())
		}, false, []string{"program uplink_ingress of interface up0 was detached"}},
		{"an uplink's filters are deleted", true, func(l *lab, d *Datapath) {
			l.deleteClsact(d, labUplink)
		}, false, []string{"program uplink_egress of interface up0 was detached", "program uplink_ingress of interface up0 was detached"}},
		{"a pod's filter is deleted", false, func(l *lab, d *Datapath) {
			l.deleteClsact(d, hostLinkName("client"))
		}, true, []string{"program pod_egress of pod default/client was detached", "program pod_ingress of pod default/client was detached"}},
		{"a map's pin is removed", false, func(l *lab, d *Datapath) {
			l.must(os.Remove(d.pins.mapPath(layoutNames(d.specs)[bpf.DatapathMapFrontends])))
		}, true, []string{"the pin of map frontends was removed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, d := repairLab(t, c.noTCX, (*lab).openUntilEnd)
			if found := d.Repair(); len(found) != 0 {
				t.Fatalf("found %v where nothing is missing", found)
			}
			c.breaks(l, d)
			if got := l.servicesAnswer(); got != c.answers {
				t.Errorf("services answer before the repair: %t", got)
			}
			l.checkRepairs(d, c.found)
		})
	}
}

// A bpffs that is unmounted takes every pin with it. The programs go on, and the
// next daemon finds them again.
func TestRepairOfBPFFS(t *testing.T) {
	l, d := repairLab(t, false, (*lab).open)
	l.must(unix.Unmount(l.opts.BPFFSDir, unix.MNT_DETACH))
	if !l.servicesAnswer() {
		t.Error("services do not answer any more")
	}
	repaired := d.Repair()
	if !slices.ContainsFunc(repaired, func(r Repair) bool {
		return r.Err == nil && strings.Contains(r.What, "was unmounted")
	}) {
		t.Errorf("found %v", repaired)
	}
	if again := d.Repair(); len(again) != 0 {
		t.Errorf("after the repair: %v", again)
	}
	l.must(d.Close())
	if !l.servicesAnswer() {
		t.Error("services do not answer without a daemon")
	}
	d = l.openUntilEnd()
	if !l.servicesAnswer() {
		t.Error("services do not answer with the next daemon")
	}
	if got := len(kernelServices(t, d)); got != 2 {
		t.Errorf("the next daemon found %d addresses, want 2", got)
	}
}

// What cannot be put back is told, and counted as such.
func TestRepairThatFails(t *testing.T) {
	l, d := repairLab(t, false, (*lab).openUntilEnd)
	path := d.pins.link(bpf.DatapathProgSockConnect4)
	l.must(d.links[path].Detach())
	l.must(os.Remove(path))
	l.must(os.Mkdir(path, 0o700)) // in the way of the pin
	found := d.Repair()
	if len(found) != 1 || found[0].Err == nil || !strings.Contains(found[0].String(), "could not be put back") {
		t.Errorf("found %v", found)
	}
	if d.repaired.failed != 1 || d.repaired.done != 0 {
		t.Errorf("counted %d done and %d failed", d.repaired.done, d.repaired.failed)
	}
	l.must(os.Remove(path))
	l.checkRepairs(d, []string{"program sock_connect4 was detached"})
	if n := testutil.CollectAndCount(d.Metrics(), "shoal_datapath_repairs_total"); n != 2 {
		t.Errorf("%d series of repairs", n)
	}
}

// repairLab has a pod that serves, one that calls, and the service between.
func repairLab(t *testing.T, noTCX bool, open func(*lab) *Datapath) (*lab, *Datapath) {
	t.Helper()
	return repairLabWith(t, func(l *lab) { l.opts.noTCX = noTCX }, open)
}

func repairLabWith(t *testing.T, set func(*lab), open func(*lab) *Datapath) (*lab, *Datapath) {
	t.Helper()
	l := newLab(t)
	set(l)
	d := open(l)
	server, serverIP := l.pod(d, "server")
	l.pod(d, "client")
	l.serveTCP(server, ":80", "server")
	l.must(d.SetService(Service{Key: "default/web:80/TCP", Proto: TCP, Backends: []Backend{{Addr: netip.AddrPortFrom(serverIP, 80)}},
		Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}, {Port: 30080}}}))
	l.must(d.SyncComplete())
	return l, d
}

// servicesAnswer calls the service from a pod, and its node port from outside.
func (l *lab) servicesAnswer() bool {
	l.t.Helper()
	client, err := openNamespace(filepath.Join(l.opts.StateDir, "netns", "client"))
	l.must(err)
	defer client.close()
	answers := func(from namespace, to string) bool {
		c, err := dial(from, "tcp4", to)
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = call(c, "hello")
		return err == nil
	}
	fromOutside := false
	l.outsideCgroup(func() { fromOutside = answers(l.outside, labHostIP+":30080") })
	return fromOutside && answers(client, "10.0.0.10:80")
}

func (l *lab) checkRepairs(d *Datapath, want []string) {
	l.t.Helper()
	var got []string
	for _, r := range d.Repair() {
		if r.Err != nil {
			l.t.Errorf("%s: %v", r.What, r.Err)
		}
		got = append(got, r.What)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		l.t.Errorf("found %q, want %q", got, want)
	}
	if again := d.Repair(); len(again) != 0 {
		l.t.Errorf("after the repair: %v", again)
	}
	if !l.servicesAnswer() {
		l.t.Error("services do not answer after the repair")
	}
}

func (l *lab) deleteClsact(d *Datapath, device string) {
	l.t.Helper()
	dev, err := d.nl.LinkByName(device)
	l.must(err)
	l.must(d.nl.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
}

// BenchmarkRepair is one round in which no filter has changed.
func BenchmarkRepair(b *testing.B) {
	const pods = 50
	l := newLab(b)
	d := l.openUntilEnd()
	l.must(d.SyncComplete())
	for i := range pods {
		l.pod(d, fmt.Sprint("pod-", i))
	}
	for b.Loop() {
		if found, _ := d.repair(parts{attached: true}); len(found) != 0 {
			b.Fatalf("found %v", found)
		}
	}
}

// A pod's filter that is deleted is noticed without looking at all pods each
// time: the kernel says so.
func TestKeepAttached(t *testing.T) {
	l, d := repairLab(t, false, (*lab).openUntilEnd)
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan Repair, 10), make(chan error, 1)
	go func() { done <- d.keepAttached(ctx, time.Millisecond, func(r Repair) { told <- r }) }()
	time.Sleep(50 * time.Millisecond) // past the first round, which looks at pods anyway
	l.deleteClsact(d, hostLinkName("client"))
	for range 2 {
		if r := <-told; r.Err != nil || !strings.HasSuffix(r.What, "of pod default/client was detached") {
			t.Errorf("told of %v", r)
		}
	}
	l.must(d.links[d.pins.link(bpf.DatapathProgSockConnect4)].Detach())
	if r := <-told; r.Err != nil || r.What != "program sock_connect4 was detached" {
		t.Errorf("told of %v", r)
	}
	cancel()
	l.must(<-done)
	if !l.servicesAnswer() {
		t.Error("services do not answer")
	}
}
