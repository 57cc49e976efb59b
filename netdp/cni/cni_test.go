package cni

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/netdp/driver"
	"shoal/netdp/netns"
)

// TestPods: pods of reference plugins get addresses of this host's range, talk,
// and leave nothing.
func TestPods(t *testing.T) {
	l := newLab(t)
	l.configure()
	a, b := l.attach("a"), l.attach("b")
	for _, got := range []driver.Attachment{a, b} {
		if len(got.Addresses) != 1 || !l.o.PodCIDRs[0].Contains(got.Addresses[0]) || len(got.Warnings) > 0 {
			t.Fatalf("attached: %+v", got)
		}
	}
	if a.Addresses[0] == b.Addresses[0] {
		t.Fatalf("both have %s", a.Addresses[0])
	}
	l.talks(a.NetNS, b)
	l.talks(l.host, a)
	l.talks(a.NetNS, a) // loopback is up
	if again := l.attach("a"); !slices.Equal(again.Addresses, a.Addresses) || again.NetNS != a.NetNS || len(again.Warnings) > 0 {
		t.Errorf("attached again: %+v, not %+v", again, a)
	}
	l.detach("a")
	l.talks(l.host, b)
	l.detach("b")
	l.detach("b")
	l.nothingLeft()
	l.must(l.d.Remove())
	if _, err := os.Stat(l.o.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state after Remove: %v", err)
	}
}

// TestGivenNamespace: a namespace that was made for the pod is the one that is used.
func TestGivenNamespace(t *testing.T) {
	l := newLab(t)
	l.configure()
	given := filepath.Join(l.dir, "given")
	l.must(netns.Create("", given, func(*os.File) error { return nil }))
	defer func() { l.must(netns.Unpin(given)) }()
	pod := labPod("a")
	pod.NetNS = given
	got, err := l.d.Attach(context.Background(), pod)
	l.must(err)
	var made, pinned unix.Stat_t
	l.must(unix.Stat(given, &made))
	l.must(unix.Stat(got.NetNS, &pinned))
	if made.Ino != pinned.Ino {
		t.Error("the pod has another namespace than its own")
	}
	l.detach("a")
	l.nothingLeft()
}

// TestRestart: the next daemon finds pods as they are, says when they miss
// something, and takes them away by what they were made with.
func TestRestart(t *testing.T) {
	l := newLab(t)
	l.configure()
	a, b := l.attach("a"), l.attach("b")
	l.open()
	networks := l.d.Networks()
	if len(networks) != 2 {
		t.Fatalf("networks: %+v", networks)
	}
	if again := l.attach("a"); !slices.Equal(again.Addresses, a.Addresses) || len(again.Warnings) > 0 {
		t.Errorf("adopted: %+v, not %+v", again, a)
	}
	l.talks(l.host, a)

	l.inside(b.NetNS, func() error {
		eth, err := netlink.LinkByName(ifName)
		if err != nil {
			return err
		}
		return netlink.LinkDel(eth)
	})
	broken := l.attach("b")
	if len(broken.Warnings) != 1 || broken.Warnings[0].Reason != checkFailed || !strings.Contains(broken.Warnings[0].Message, ifName) {
		t.Errorf("a pod without its interface: %+v", broken)
	}

	l.must(os.RemoveAll(l.o.ConfDir)) // what made them is on record
	l.open()
	l.detach("a")
	l.detach("b")
	l.nothingLeft()
}

// TestReboot: namespaces are gone after one, and leases are not.
func TestReboot(t *testing.T) {
	l := newLab(t)
	l.configure()
	before := l.attach("a")
	l.attach("gone")
	for _, uid := range []string{"a", "gone"} {
		l.must(netns.Unpin(l.d.pin(uid)))
		rec := l.d.pods[uid].record
		rec.Boot = "an earlier one"
		l.must(l.d.records.Save(rec))
	}
	l.open()
	if got := l.d.Networks(); len(got) > 0 {
		t.Errorf("networks after a reboot: %+v", got)
	}
	if uids, _ := l.d.Attached(context.Background()); len(uids) != 2 {
		t.Errorf("attached after a reboot: %q", uids)
	}
	after := l.attach("a")
	l.talks(l.host, after)
	l.detach("gone")
	if leases := l.leases(); len(leases) != 1 || leases[0] != after.Addresses[0].String() {
		t.Errorf("leases are %q; the pod had %s and has %s", leases, before.Addresses[0], after.Addresses[0])
	}
	l.detach("a")
	l.nothingLeft()
}

// TestKilledBetween: a daemon that was killed while plugins ran is followed by one
// that knows, whether the pod is still wanted or not.
func TestKilledBetween(t *testing.T) {
	l := newLab(t)
	l.configure()
	for _, uid := range []string{"wanted", "unwanted"} {
		l.attach(uid)
		rec := l.d.pods[uid].record
		rec.Made, rec.Addresses = false, nil
		l.must(l.d.records.Save(rec))
	}
	l.open()
	if got := l.attach("wanted"); len(got.Addresses) != 1 {
		t.Errorf("attached: %+v", got)
	}
	l.detach("unwanted")
	if leases := l.leases(); len(leases) != 1 {
		t.Errorf("leases are %q", leases)
	}
	l.detach("wanted")
	l.nothingLeft()
}

// TestPluginFails: the error has the plugin's own words, and what those before it
// made is taken back.
func TestPluginFails(t *testing.T) {
	for name, want := range map[string][]string{
		refuser: {`network "lab"`, refuser, "the switch is on fire", "try later"},
		crasher: {`network "lab"`, crasher, "exit status 2", "panic: no such thing"},
		talker:  {`network "lab"`, talker, "prints more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.configure(name)
			_, err := l.d.Attach(context.Background(), labPod("a"))
			if err == nil {
				t.Fatal("no error")
			}
			for _, words := range want {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%q is not in: %v", words, err)
				}
			}
			l.nothingLeft()
			l.configure()
			l.attach("a")
			l.detach("a")
			l.nothingLeft()
		})
	}
}

// TestPluginGone: whose network cannot be taken back, and why, is said until it can.
func TestPluginGone(t *testing.T) {
	l := newLab(t)
	bin := l.o.BinDirs[1]
	path := filepath.Join(bin, witness)
	program, err := os.Readlink(path)
	l.must(err)
	l.configure(witness)
	l.attach("a")
	l.must(os.Remove(path))
	l.open()
	for range 2 {
		err := l.d.Detach(context.Background(), "a")
		for _, words := range []string{"pod default/pod-a", `network "lab"`, `plugin "` + witness + `" is not in`, bin, "install it"} {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%q is not in: %v", words, err)
			}
		}
	}
	l.must(os.Symlink(program, path))
	l.detach("a")
	l.nothingLeft()
}

// TestPluginHangs: it is killed with its child, and the pod is taken back.
func TestPluginHangs(t *testing.T) {
	l := newLab(t)
	l.configure(hanger)
	var err error
	var pids []byte
	// On a slow machine it may not have got to the plugin that hangs.
	for l.d.o.Timeout = 2 * time.Second; len(pids) == 0 && l.d.o.Timeout < 2*time.Minute; l.d.o.Timeout *= 2 {
		_, err = l.d.Attach(context.Background(), labPod("a"))
		pids, _ = os.ReadFile(filepath.Join(l.dir, "pids"))
	}
	if err == nil || !strings.Contains(err.Error(), "did not end within") || !strings.Contains(err.Error(), hanger) {
		t.Fatalf("a plugin that hangs: %v", err)
	}
	for _, text := range strings.Fields(string(pids)) {
		pid, err := strconv.Atoi(text)
		l.must(err)
		if !ended(pid) {
			t.Errorf("process %d still runs", pid)
		}
	}
	l.nothingLeft()
}

// TestPluginLeavesChild: a helper that a plugin starts for the pod, and leaves, does
// not make it fail.
func TestPluginLeavesChild(t *testing.T) {
	l := newLab(t)
	l.configure(leaver)
	got, err := l.d.Attach(context.Background(), labPod("a"))
	pid, readErr := os.ReadFile(filepath.Join(l.dir, "pids"))
	l.must(readErr)
	child, atoiErr := strconv.Atoi(string(pid))
	l.must(atoiErr)
	if killErr := unix.Kill(child, unix.SIGKILL); killErr != nil {
		t.Errorf("its child has ended: %v", killErr)
	}
	if err != nil || len(got.Addresses) != 1 {
		t.Fatalf("attached: %+v, %v", got, err)
	}
	l.detach("a")
	l.nothingLeft()
}

// ended waits until a process is no more, or only waits to be reaped.
func ended(pid int) bool {
	for range 200 {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

// TestStopWhilePluginRuns: a daemon that stops leaves what is half-made to the next.
func TestStopWhilePluginRuns(t *testing.T) {
	l := newLab(t)
	l.configure(hanger)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := l.d.Attach(ctx, labPod("a"))
		done <- err
	}()
	for {
		if _, err := os.Stat(filepath.Join(l.dir, "pids")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	l.open()
	l.configure()
	l.attach("a")
	if leases := l.leases(); len(leases) != 1 {
		t.Errorf("leases are %q", leases)
	}
	l.detach("a")
	l.nothingLeft()
}

// TestTold: plugins learn what those of other runtimes do, at the end as at the
// beginning, and nothing of the daemon's own.
func TestTold(t *testing.T) {
	l := newLab(t)
	l.configure(witness)
	t.Setenv("SHOAL_TOKEN", "a secret")
	pod := labPod("a")
	pod.HostPorts = []driver.HostPort{{Host: 8080, Container: 80, Protocol: v1.ProtocolTCP}, {Host: 53, Container: 5353, Protocol: v1.ProtocolUDP, Address: "192.0.2.1"}}
	pod.Annotations = map[string]string{ingressBandwidth: "10M", egressBandwidth: "1G"}
	pod.DNS = func(context.Context) (driver.DNS, error) {
		return driver.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"cluster.local"}}, nil
	}
	got, err := l.d.Attach(context.Background(), pod)
	l.must(err)
	l.open()
	if again := l.attach("a"); len(again.Warnings) > 0 {
		t.Errorf("adopted: %+v", again)
	}
	l.detach("a")
	l.nothingLeft()
	sandbox := ""
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		data, err := os.ReadFile(filepath.Join(l.dir, command))
		l.must(err)
		var saw told
		l.must(json.Unmarshal(data, &saw))
		if sandbox == "" {
			sandbox = saw.value("CNI_CONTAINERID")
		}
		for name, want := range map[string]string{
			"CNI_CONTAINERID": sandbox, "CNI_IFNAME": "eth0", "CNI_NETNS": got.NetNS, "SHOAL_TOKEN": "",
			"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-a;K8S_POD_INFRA_CONTAINER_ID=" + sandbox + ";K8S_POD_UID=a",
		} {
			if value := saw.value(name); value != want {
				t.Errorf("%s: %s is %q, want %q", command, name, value, want)
			}
		}
		runtimeConfig, err := json.Marshal(saw.Input["runtimeConfig"])
		l.must(err)
		const want = `{"bandwidth":{"egressBurst":4294967295,"egressRate":1000000000,"ingressBurst":4294967295,"ingressRate":10000000},` +
			`"dns":{"searches":["cluster.local"],"servers":["10.0.0.10"]},` +
			`"portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"},{"containerPort":5353,"hostIP":"192.0.2.1","hostPort":53,"protocol":"udp"}]}`
		if string(runtimeConfig) != want {
			t.Errorf("%s: runtimeConfig is\n%s, want\n%s", command, runtimeConfig, want)
		}
		if saw.Input["prevResult"] == nil {
			t.Errorf("%s: no result of the plugins before", command)
		}
	}
	pod.Annotations[egressBandwidth] = "fast"
	if _, err := l.d.Attach(context.Background(), pod); err == nil || !strings.Contains(err.Error(), `is "fast"`) {
		t.Errorf("a bandwidth that is none: %v", err)
	}
	l.nothingLeft()
}

// TestReady: what is missing is said, with what to do.
func TestReady(t *testing.T) {
	l := newLab(t)
	is := func(what string, words ...string) {
		t.Helper()
		err := l.d.Ready(context.Background())
		if len(words) == 0 {
			l.must(err)
			return
		}
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in: %v", what, w, err)
			}
		}
	}
	l.must(os.Remove(l.o.ConfDir))
	is("no directory", l.o.ConfDir, "no .conflist", "--network-driver shoal")
	_, err := l.d.Attach(context.Background(), labPod("a"))
	if err == nil || !strings.Contains(err.Error(), "no .conflist") {
		t.Errorf("attached without a network: %v", err)
	}
	l.must(os.Mkdir(l.o.ConfDir, 0o755))
	is("an empty directory", "no .conflist")
	l.configure(witness)
	is("all is there")
	l.d.o.BinDirs = l.o.BinDirs[:1]
	is("a plugin is missing", witness, packaged, "--cni-bin-dir", "10-lab.conflist")
	l.d.o.BinDirs = l.o.BinDirs
	l.must(os.WriteFile(filepath.Join(l.o.ConfDir, "05-broken.conflist"), []byte("{"), 0o600))
	is("a broken file before it", "05-broken.conflist")
	if uids, _ := l.d.Attached(context.Background()); len(uids) > 0 {
		t.Errorf("attached: %q", uids)
	}
}

// TestDamagedRecord: it is named, since nobody else knows what is to be taken back.
func TestDamagedRecord(t *testing.T) {
	o := Options{StateDir: t.TempDir()}
	path := filepath.Join(o.StateDir, "pods", "a.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("opened: %v", err)
	}
}

func readResult(text []byte) ([]netip.Addr, error) {
	result, err := create.CreateFromBytes(text)
	if err != nil {
		return nil, err
	}
	return addressesOf(result)
}

// TestAddresses: of a result, the pod's own count, IPv4 first.
func TestAddresses(t *testing.T) {
	result := func(text string) []netip.Addr {
		t.Helper()
		got, err := readResult([]byte(text))
		if err != nil {
			return nil
		}
		return got
	}
	interfaces := `"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/ns"}]`
	for text, want := range map[string][]netip.Addr{
		`{"cniVersion":"1.0.0",` + interfaces + `,"ips":[{"interface":1,"address":"fd00::5/64"},{"interface":0,"address":"192.0.2.9/24"},{"interface":1,"address":"10.1.2.3/24"}]}`: {netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::5")},
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24"}}`:                                         {netip.MustParseAddr("10.1.2.3")},
		`{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}`:                                  {netip.MustParseAddr("10.1.2.3")},
		`{"cniVersion":"1.0.0","ips":[]}`:                                                           nil,
		`{"cniVersion":"1.0.0",` + interfaces + `,"ips":[{"interface":7,"address":"10.1.2.3/24"}]}`: {netip.MustParseAddr("10.1.2.3")},
	} {
		if got := result(text); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}
