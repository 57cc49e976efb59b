package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// configureAlone has a network of version 1.1.0, made by the test's own plugin.
func (l *lab) configureAlone() {
	l.t.Helper()
	config := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [{"type": %q, "testDir": %q}]}`, labNetwork, witness, l.dir)
	l.must(os.WriteFile(filepath.Join(l.o.ConfDir, "10-lab.conflist"), []byte(config), 0o600))
}

// TestCollect: plugins are told of exactly those that have a network, once none
// of them runs any more.
func TestCollect(t *testing.T) {
	l := newLab(t)
	l.configureAlone()
	l.attach("a")
	l.attach("b")
	l.detach("a")
	l.must(l.d.Collect(context.Background()))
	data, err := os.ReadFile(filepath.Join(l.dir, "GC"))
	l.must(err)
	var saw struct {
		Input struct {
			Used []map[string]string `json:"cni.dev/valid-attachments"`
		}
	}
	l.must(json.Unmarshal(data, &saw))
	if used := saw.Input.Used; len(used) != 1 || used[0]["containerID"] != l.d.pods["b"].record.Sandbox || used[0]["ifname"] != ifName {
		t.Errorf("told that %v are in use", used)
	}
	if got := l.attach("b"); len(got.Warnings) > 0 { // its result is still known
		t.Errorf("attached: %+v", got)
	}
	l.detach("b")

	l.must(os.Remove(filepath.Join(l.dir, "GC")))
	l.configure() // of a version before
	l.must(l.d.Collect(context.Background()))
	if _, err := os.Stat(filepath.Join(l.dir, "GC")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("asked of a network that does not know it: %v", err)
	}
	if n := len(l.d.runs); n > 0 {
		t.Errorf("%d places are still taken", n)
	}
}

// TestStatus: a plugin that says it cannot work makes the host unready.
func TestStatus(t *testing.T) {
	l := newLab(t)
	l.configureAlone()
	l.must(l.d.Ready(context.Background()))
	closed := filepath.Join(l.dir, "closed")
	l.must(os.WriteFile(closed, nil, 0o600))
	if err := l.d.Ready(context.Background()); err == nil || !strings.Contains(err.Error(), "closed today") {
		t.Errorf("ready: %v", err)
	}
	l.must(os.Remove(closed))
	l.must(l.d.Ready(context.Background()))

	// Plugins that hang have all places, and so would it.
	for range cap(l.d.runs) {
		l.d.runs <- struct{}{}
	}
	defer l.d.release(cap(l.d.runs))
	l.must(l.d.Ready(context.Background()))
	l.must(os.WriteFile(filepath.Join(l.dir, "hung"), nil, 0o600))
	l.d.o.CheckTimeout = 100 * time.Millisecond
	if err := l.d.Ready(context.Background()); err == nil || !strings.Contains(err.Error(), "did not end within") {
		t.Errorf("a plugin that hangs is ready: %v", err)
	}
}
