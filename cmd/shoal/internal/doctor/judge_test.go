//go:build linux

package doctor

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "shoal/api/control/v1"
	"shoal/cmd/shoal/internal/daemon"
	"shoal/netdp/cni"
)

func skewed(millis ...float64) []v1.Peer {
	peers := []v1.Peer{{Name: "self"}}
	for i := range millis {
		peers = append(peers, v1.Peer{Name: string(rune('a' + i)), SkewMillis: &millis[i]})
	}
	return peers
}

func TestJudgements(t *testing.T) {
	ms := time.Millisecond
	fast, slow := []time.Duration{ms, ms, 90 * ms}, []time.Duration{20 * ms, ms, 20 * ms}
	other := holder{pid: 7, name: "nginx"}
	for _, test := range []struct {
		name  string
		found Finding
		want  Result
		says  string
	}{
		{"kernel of Debian 12", judgeKernel("6.1.0-18-amd64"), OK, "6.1.0"},
		{"newer kernel", judgeKernel("7.0.1"), OK, ""},
		{"older kernel", judgeKernel("5.15.0-100-generic"), Fail, "needs 6.1"},
		{"strange kernel", judgeKernel("custom"), Warn, "custom"},
		{"IPv6", judgeIPv6(true, true), OK, "beside IPv4"},
		{"no IPv6", judgeIPv6(false, false), Warn, "no IPv6"},
		{"a bridge of plugins", judgeLinks([]cni.Link{{Name: "cni0", Address: netip.MustParseAddr("10.64.7.1")}}), Warn, "cni0 has an address of pods, 10.64.7.1"},
		{"no bridge of plugins", judgeLinks(nil), Skip, "own network"},
		{"IPv6 off", judgeIPv6(true, false), Warn, "switched off"},
		{"module there", judgeModule("vxlan", true, false, Warn, "x"), OK, ""},
		{"module to load", judgeModule("vxlan", false, true, Warn, "x"), OK, "can load"},
		{"module missing", judgeModule("vxlan", false, false, Warn, "no way between hosts"), Warn, "no way between hosts"},
		{"much disk", judgeDisk("/d", 50<<30, 100<<30), OK, "50.0 GiB of 100.0 GiB"},
		{"little disk", judgeDisk("/d", 1<<30, 100<<30), Warn, "images"},
		{"no disk", judgeDisk("/d", 100<<20, 100<<30), Fail, "refuses writes"},
		{"one slow sync", judgeFsync("/d", fast), OK, "at worst 90ms"},
		{"slow disk", judgeFsync("/d", slow), Warn, "20ms"},
		{"memory", judgeMemory(8 << 30), OK, ""},
		{"little memory", judgeMemory(500 << 20), Warn, "500 MiB"},
		{"no memory", judgeMemory(100 << 20), Fail, ""},
		{"clock synchronised", judgeClock(unix.TIME_OK, unix.STA_PLL), OK, ""},
		{"clock not synchronised", judgeClock(unix.TIME_ERROR, unix.STA_UNSYNC), Warn, "not synchronised"},
		{"alone", judgeSkew(skewed(), "self"), Skip, ""},
		{"clocks agree", judgeSkew(skewed(3, -9), "self"), OK, "9ms"},
		{"a clock behind", judgeSkew(skewed(3, -300), "self"), Warn, "b differs by -300ms"},
		{"a clock far ahead", judgeSkew(skewed(600_000), "self"), Fail, "10m0s"},
		{"Ethernet", judgeMTU("eth0", 1500), OK, ""},
		{"tunnel", judgeMTU("eth0", 1400), Warn, "1400"},
		{"tiny", judgeMTU("eth0", 576), Fail, "1280"},
		{"port free", judgePort("tcp", 6443, true, holder{}, 0), OK, "free"},
		{"port ours", judgePort("tcp", 6443, false, other, 7), OK, "shoal's daemon"},
		{"port of another", judgePort("tcp", 6443, false, other, 8), Fail, "nginx (pid 7)"},
		{"port of somebody", judgePort("udp", 7946, false, holder{}, 8), Fail, "taken"},
		{"no peers", judgePeers(0, nil, nil, 1500), Skip, ""},
		{"peers answer", judgePeers(3, nil, map[string]int{"a": 1500}, 1500), OK, "3 ports"},
		{"narrow path", judgePeers(3, nil, map[string]int{"a": 1400}, 1500), Warn, "1400"},
		{"port closed", judgePeers(3, []unreachable{{"a", "192.0.2.1:7946", errors.New("refused")}}, nil, 1500), Fail, "a at 192.0.2.1:7946: refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := test.found
			if f.Result != test.want || !strings.Contains(f.Summary, test.says) || f.Summary == "" {
				t.Errorf("got %+v, want %s with %q", f, test.want, test.says)
			}
			if (f.Result == Warn || f.Result == Fail) && f.Fix == "" {
				t.Errorf("no fix: %+v", f)
			}
			if strings.Contains(f.Summary, "\n") {
				t.Errorf("more than a line: %q", f.Summary)
			}
		})
	}
}

// A port is found with the process that has it, in both families.
func TestFindHolder(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		var n int
		if network == "tcp" {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			n = l.Addr().(*net.TCPAddr).Port
		} else {
			c, err := net.ListenPacket("udp", ":0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			n = c.LocalAddr().(*net.UDPAddr).Port
		}
		if h := findHolder(network, n); h.pid != os.Getpid() || h.name == "" {
			t.Errorf("%s port %d: %+v, want pid %d", network, n, h, os.Getpid())
		}
		if err := tryPort(t.Context(), network, n); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s port %d: %v", network, n, err)
		}
	}
}

// On the machine at hand every check comes to an end and says something.
func TestRun(t *testing.T) {
	config, err := daemon.Planned(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	all := Run(t.Context(), Options{Config: config}, func(f Finding) { Print(&out, f) })
	if len(all) != len(checks()) {
		t.Errorf("%d findings of %d checks", len(all), len(checks()))
	}
	for _, f := range all {
		if f.Check == "" || f.Summary == "" || f.Result == "" {
			t.Errorf("an empty finding: %+v", f)
		}
		if f.Check == "daemon" && f.Result != Skip {
			t.Errorf("a daemon where none runs: %+v", f)
		}
	}
	if lines := strings.Count(out.String(), "\n"); lines < len(all) {
		t.Errorf("%d lines for %d findings", lines, len(all))
	}
}

// A host whose pods' network is of CNI plugins needs them.
func TestLookCNI(t *testing.T) {
	dir := t.TempDir()
	look := func(want Result, words string) {
		t.Helper()
		f := lookCNI(t.Context(), &host{Options: Options{Config: daemon.Config{NetworkDriver: daemon.NetworkDriverCNI, CNIConfDir: dir, CNIBinDirs: []string{dir}}}})
		if f.Result != want || !strings.Contains(f.Summary, words) || (f.Fix == "") != (want == OK) {
			t.Errorf("%+v, want %s with %q", f, want, words)
		}
	}
	look(Fail, "no .conflist file")
	const config = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "cable"}]}`
	if err := os.WriteFile(filepath.Join(dir, "pods.conflist"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	look(Fail, `"cable" is not in `+dir)
	if err := os.WriteFile(filepath.Join(dir, "cable"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	look(OK, dir)
	if f := lookCNI(t.Context(), &host{}); f.Result != Skip {
		t.Errorf("a host with shoal's own network: %+v", f)
	}
}
