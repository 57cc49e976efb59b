package netdp

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"shoal/bpf"
)

// The programs are told again and again that a takeover goes on, and no more when it is
// over.
func TestSwitchTakeoverIsRenewed(t *testing.T) {
	l := newLab(t)
	d := l.openUntilEnd()
	until := func() (at uint64) {
		t.Helper()
		l.must(d.takeover.until.Get(&at))
		return at
	}
	l.must(d.takeover.begin())
	first := until()
	for began := time.Now(); until() <= first; time.Sleep(takeoverRenew / 10) {
		if time.Since(began) > ioTimeout {
			t.Fatal("it is not renewed")
		}
	}
	l.must(d.takeover.end())
	for began := time.Now(); time.Since(began) < 2*takeoverRenew; time.Sleep(takeoverRenew / 10) {
		if at := until(); first == 0 || at != 0 {
			t.Fatalf("began with %d, and has %d after its end", first, at)
		}
	}
}

// A switch-over that failed is tried again, and until then no pod is made.
func TestSwitchThatFailedIsTriedAgain(t *testing.T) {
	l := newLab(t)
	d := l.open()
	l.must(d.SetService(Service{Key: "web", Proto: TCP, Frontends: []Frontend{{Addr: netip.MustParseAddr("10.0.0.10"), Port: 80}}}))
	l.must(d.Close())
	l.opts.alterMaps = otherKeys(bpf.DatapathMapFrontends)
	d = l.openUntilEnd()
	l.must(l.host.do(func() error {
		dev, err := netlink.LinkByName(labUplink)
		l.must(err)
		return netlink.LinkDel(dev)
	}))
	for range 2 {
		if err := d.SyncComplete(); err == nil || d.isSwitched() || d.await == 0 {
			t.Fatalf("without an uplink: %v, switched %t, awaits %b", err, d.isSwitched(), d.await)
		}
	}
	if found := d.Repair(); len(found) != 1 || found[0].Err == nil || d.isSwitched() {
		t.Errorf("without an uplink, repairs %v, switched %t", found, d.isSwitched())
	}
	l.connect()
	if found := d.Repair(); len(found) == 0 || found[0].Err != nil || !d.isSwitched() || d.await != 0 {
		t.Errorf("repairs %v, switched %t, awaits %b", found, d.isSwitched(), d.await)
	}
	l.pod(d, "late")
	l.must(d.SyncComplete())
}

// A daemon killed while it replaced a pin leaves the older one, and what it made is
// taken away.
func TestSwitchAfterOneWasKilled(t *testing.T) {
	l := newLab(t)
	d := l.open()
	path := d.pins.link(bpf.DatapathProgUplinkIngress + "-" + labUplink)
	l.must(d.Close())
	old, err := link.LoadPinnedLink(path, nil)
	l.must(err)
	info, err := old.Info()
	l.must(err)
	again, err := link.NewFromID(info.ID)
	l.must(err)
	l.must(again.Pin(filepath.Join(filepath.Dir(path), halfMade+filepath.Base(path))))
	l.must(again.Close())
	l.must(old.Close())
	d = l.openUntilEnd()
	found, err := d.pins.linkNames()
	l.must(err)
	for _, name := range found {
		if strings.HasPrefix(name, halfMade) {
			t.Errorf("%s is still pinned", name)
		}
	}
	if state, err := d.links.stateOf(path, d.progs[bpf.DatapathProgUplinkIngress]); err != nil || state != linkFine {
		t.Errorf("the link is %v, %v", state, err)
	}
}
