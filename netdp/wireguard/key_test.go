package wireguard

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestKeyFile(t *testing.T) {
	path := t.TempDir() + "/wireguard.key"
	key, err := LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadKey(path)
	if err != nil || again.Public() != key.Public() || key.Public().IsZero() {
		t.Errorf("read again: %v, %v; want %v", again.Public(), err, key.Public())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if parsed, err := ParseKey(key.Public().String()); err != nil || parsed != key.Public() {
		t.Errorf("parsed %v, %v", parsed, err)
	}
	if text, err := os.ReadFile(path); err != nil || strings.Contains(fmt.Sprintf("%v %+v %#v", key, key, key), strings.TrimSpace(string(text))) {
		t.Error("the private key can be printed")
	}
	if err := os.WriteFile(path, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged key: %v", err)
	}
}
