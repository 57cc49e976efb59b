package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// countMapEntries counts what is set in the pinned maps of the datapath.
// Tracked flows are left out: they expire by use, not with a pod. So are the
// counts of calls, which the host's own services have too.
func countMapEntries(t *testing.T) int {
	t.Helper()
	pins, err := filepath.Glob("/run/shoal*/bpf/maps/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(pins) == 0 {
		t.Fatal("no pinned map was found")
	}
	count := 0
	for _, pin := range pins {
		if strings.HasPrefix(filepath.Base(pin), "service_counts-") {
			continue
		}
		m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			t.Fatalf("open map %s: %v", pin, err)
		}
		switch m.Type() {
		case ebpf.Hash, ebpf.Array:
			count += countSet(t, m)
		}
		m.Close()
	}
	return count
}

// countSet counts the entries of a map; those of an array count when any byte
// is set.
func countSet(t *testing.T, m *ebpf.Map) int {
	t.Helper()
	var key, value []byte
	count := 0
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if m.Type() == ebpf.Hash || slices.ContainsFunc(value, func(b byte) bool { return b != 0 }) {
			count++
		}
	}
	if err := entries.Err(); err != nil {
		t.Fatalf("read map: %v", err)
	}
	return count
}

// countRunFiles counts what is below the daemon's run directories: pinned
// namespaces, programs and records of pods.
func countRunFiles(t *testing.T) int {
	t.Helper()
	return len(runFiles(t))
}

func runFiles(t *testing.T) (paths []string) {
	t.Helper()
	dirs, err := filepath.Glob("/run/shoal*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		paths = append(paths, entries(t, dir, func(os.DirEntry) bool { return true })...)
	}
	return paths
}
