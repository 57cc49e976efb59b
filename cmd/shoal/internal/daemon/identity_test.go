//go:build linux

package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"shoal/gossip/join/token"
)

func TestAHostKeepsItsIdentity(t *testing.T) {
	dir := t.TempDir()
	if id, err := loadIdentity(dir); id != nil || err != nil {
		t.Errorf("a new host: %v, %v", id, err)
	}
	want := identity{Cell: "c", Name: "host2", Tag: 7, Joined: true}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadIdentity(dir)
	if err != nil || got.Tag != 7 || got.Name != "host2" || !got.Joined {
		t.Errorf("%+v, %v", got, err)
	}
	if err := got.check("host3"); err == nil || !strings.Contains(err.Error(), "--name host2") {
		t.Errorf("another name: %v", err)
	}
	for _, bad := range []string{"", "{", `{"cell":"c","name":"n","tag":4096}`, `{"cell":"c","name":"n"}`} {
		if err := os.WriteFile(filepath.Join(dir, identityFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadIdentity(dir); err == nil || !strings.Contains(err.Error(), identityFile) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWhereToJoin(t *testing.T) {
	got, err := streamAddresses("host1, 192.0.2.1:7000,[2001:db8::1]:7946,[2001:db8::2]")
	if want := []string{"host1:7947", "192.0.2.1:7001", "[2001:db8::1]:7947", "[2001:db8::2]:7947"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", ",", "host1:x", "host1:65535", "https://host1", "host1:0"} {
		if got, err := streamAddresses(bad); err == nil || !strings.Contains(err.Error(), "--join") {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func TestJoiningWithoutGossipFailsBeforeAnythingIsSent(t *testing.T) {
	gossipBy(t, nil)
	log := slog.New(slog.DiscardHandler)
	p := &peer{log: log, progress: newProgress(io.Discard, log, false), config: Config{
		Name: "host2", NodeIP: "192.0.2.2", DataDir: t.TempDir(), Join: "192.0.2.1", Token: token.New(strings.Repeat("a", 43)).String()}}
	if err := p.enter(context.Background()); !errors.Is(err, errNoGossip) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(p.config.DataDir, "pki")); !os.IsNotExist(err) {
		t.Error("something was left behind")
	}
}
