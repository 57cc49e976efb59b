//go:build linux

package daemon

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestADataDirectoryHasOneDaemon(t *testing.T) {
	dir := t.TempDir()
	first, err := acquireLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := running(dir); err != nil || pid != os.Getpid() {
		t.Errorf("running reports pid %d, %v; want %d", pid, err, os.Getpid())
	}
	if _, err := acquireLock(dir); !errors.Is(err, errLocked) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("second daemon: %v", err)
	}
	first.release()
	if pid, err := running(dir); err != nil || pid != 0 {
		t.Errorf("after release: pid %d, %v", pid, err)
	}
	again, err := acquireLock(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again.release()
}

func TestBadConfigurationSaysWhatToChange(t *testing.T) {
	for _, test := range []struct {
		config Config
		names  string
	}{
		{Config{Name: "Not_A_Name"}, "--name"},
		{Config{Name: "n", NodeIP: "nowhere"}, "--node-ip"},
		{Config{Name: "n", NodeIP: "203.0.113.9"}, "not on this host"},
		{Config{Name: "n", NodeIP: "127.0.0.1"}, "--node-ip"},
		{Config{Name: "n", NodeIP: "2001:db8::1"}, "--node-ip"},
		{Config{Name: "n", APIAddr: "6443"}, "--api-addr"},
	} {
		if _, err := test.config.complete(); err == nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("%+v: %v; want an error naming %s", test.config, err, test.names)
		}
	}
}

func TestDefaultsNeedNoFlag(t *testing.T) {
	c, err := Config{}.complete()
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != DefaultDataDir || c.APIAddr != DefaultAPIAddr || c.Containerd != DefaultContainerd || c.CgroupRoot == "" || c.NodeIP == "" || c.Name == "" {
		t.Errorf("%+v", c)
	}
}

func TestWhereClientsFindTheAPI(t *testing.T) {
	listening := &net.TCPAddr{IP: net.IPv6unspecified, Port: 6443}
	for addr, want := range map[string]string{
		":6443":          "https://127.0.0.1:6443",
		"0.0.0.0:6443":   "https://127.0.0.1:6443",
		"192.0.2.9:6443": "https://192.0.2.9:6443",
		"[::1]:6443":     "https://[::1]:6443",
	} {
		if got := (Config{APIAddr: addr}).serverURL(listening); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

func TestCertificatesCoverEveryNameClientsUse(t *testing.T) {
	names := Config{Name: "host1", NodeIP: "192.0.2.9", APIAddr: "198.51.100.1:6443"}.pkiNames(net.IPv4(10, 0, 0, 1))
	for _, ip := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.0.2.9", "198.51.100.1"} {
		found := false
		for _, have := range names.IPs {
			found = found || have.Equal(net.ParseIP(ip))
		}
		if !found {
			t.Errorf("%s is not covered", ip)
		}
	}
}

func TestConfigurationIsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	want := Config{Name: "n", DataDir: dir, Containerd: "/run/other.sock", AgentPort: 1, Runtimes: []string{"a=/bin/true"}}
	if err := want.save(); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Load(filepath.Join(dir, "nothing")); err == nil || !strings.Contains(err.Error(), "no daemon has run") {
		t.Errorf("an unknown directory: %v", err)
	}
}

func TestANamedSocketIsNotStarted(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "containerd.sock")
	if _, err := ensureContainerd(t.Context(), socket, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), socket) {
		t.Errorf("%v", err)
	}
}

func TestTheAddressOfAHost(t *testing.T) {
	addrs := func(texts ...string) (all []net.Addr) {
		for _, text := range texts {
			ip, network, err := net.ParseCIDR(text)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, &net.IPNet{IP: ip, Mask: network.Mask})
		}
		return all
	}
	for _, test := range []struct {
		addrs []net.Addr
		want  string // the address, or a part of the error
	}{
		{addrs("127.0.0.1/8", "::1/128", "fe80::1/64", "2001:db8::7/64", "192.0.2.7/24"), "192.0.2.7"},
		{addrs("127.0.0.1/8", "::1/128", "fe80::1/64", "2001:db8::7/64"), "IPv6 addresses alone (2001:db8::7)"},
		{addrs("127.0.0.1/8", "::1/128", "fe80::1/64"), "--node-ip"},
	} {
		got, err := firstNodeIP(test.addrs)
		if err == nil && got.String() != test.want || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %s, %v; want %q", test.addrs, got, err, test.want)
		}
	}
}
