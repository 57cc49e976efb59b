package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// hugePages is where the kernel lists its huge pages.
const hugePages = "/sys/kernel/mm/hugepages"

// HugeSizes lists the sizes of huge pages the kernel knows, in bytes, and how
// many bytes of each it has set aside.
func HugeSizes() map[int64]int64 { return hugeSizes(hugePages) }

func hugeSizes(dir string) map[int64]int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // a kernel without them
	}
	out := map[int64]int64{}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), "hugepages-")
		text, kb := strings.CutSuffix(text, "kB")
		size, err := strconv.ParseInt(text, 10, 64)
		if !ok || !kb || err != nil {
			continue
		}
		size <<= 10
		pages, err := os.ReadFile(filepath.Join(dir, e.Name(), "nr_hugepages"))
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(pages)), 10, 64); err == nil {
			out[size] = n * size
		}
	}
	return out
}

// LimitsHuge reports whether groups can be limited in huge pages: on a v2 host
// as the root's controllers say, on v1 where hugetlb is mounted.
func (t *Tree) LimitsHuge() bool { return t.hasController("hugetlb") }

// LimitsSwap reports whether the kernel counts swap by group.
func (t *Tree) LimitsSwap() bool {
	t.swapOnce.Do(func() {
		file := filepath.Join(t.byController["memory"], "memory.memsw.limit_in_bytes")
		if t.Unified() {
			// The root itself has no such file; every group below it does.
			file = filepath.Join(t.unified, "*", "memory.swap.max")
		}
		found, _ := filepath.Glob(file)
		t.swap = len(found) > 0
	})
	return t.swap
}

func (t *Tree) hasController(name string) bool {
	if !t.Unified() {
		return t.byController[name] != ""
	}
	data, err := os.ReadFile(filepath.Join(t.unified, "cgroup.controllers"))
	if err != nil {
		return false
	}
	for _, c := range strings.Fields(string(data)) {
		if c == name {
			return true
		}
	}
	return false
}
