package netdp

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// pins is our directory on a bpffs: maps/NAME-HASH and links/NAME.
type pins struct {
	dir string
}

// mountSource marks a bpffs that we mounted.
const mountSource = "shoal"

func openPins(dir string) (pins, error) {
	p := pins{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, fmt.Errorf("create bpffs directory: %w", err)
	}
	on, err := onBPFFS(dir)
	if err != nil {
		return p, err
	}
	if !on {
		if err := unix.Mount(mountSource, dir, "bpf", 0, "mode=0700"); err != nil {
			return p, fmt.Errorf("mount bpffs at %s: %w", dir, err)
		}
	}
	for _, sub := range []string{p.mapsDir(), p.linksDir()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return p, fmt.Errorf("create pin directory: %w", err)
		}
	}
	return p, nil
}

func onBPFFS(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("inspect %s: %w", dir, err)
	}
	return uint32(st.Type) == unix.BPF_FS_MAGIC, nil
}

func (p pins) mapsDir() string  { return filepath.Join(p.dir, "maps") }
func (p pins) linksDir() string { return filepath.Join(p.dir, "links") }

// link is the path of a link. bpffs keeps names with dots for itself, and VLAN
// devices have one.
func (p pins) link(name string) string {
	return filepath.Join(p.linksDir(), strings.ReplaceAll(name, ".", ":"))
}
func (p pins) mapPath(n string) string      { return filepath.Join(p.mapsDir(), n) }
func (p pins) linkNames() ([]string, error) { return names(p.linksDir()) }

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// layoutNames says what each map is pinned as. A new shape gets a new name, so
// a daemon never writes new structs into an old map.
func layoutNames(specs map[string]*ebpf.MapSpec) map[string]string {
	out := map[string]string{}
	for _, g := range mapGroups(specs) {
		for _, name := range g.names {
			h := fnv.New32a()
			for _, n := range g.names {
				spec := specs[n]
				fmt.Fprintf(h, "%d %d %d %d %d ", spec.Type, spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags)
				writeShape(h, spec.Key)
				writeShape(h, spec.Value)
			}
			out[name] = fmt.Sprintf("%s-%08x", name, h.Sum32())
		}
	}
	return out
}

// writeShape writes what matters of a type in memory: fields, places, sizes.
func writeShape(w io.Writer, t btf.Type) {
	if t == nil {
		return
	}
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		for _, m := range t.Members {
			fmt.Fprintf(w, "%s@%d ", m.Name, m.Offset)
			writeShape(w, m.Type)
		}
	case *btf.Array:
		fmt.Fprintf(w, "%d of ", t.Nelems)
		writeShape(w, t.Type)
	default:
		size, err := btf.Sizeof(t)
		fmt.Fprintf(w, "%d %t ", size, err == nil)
	}
}

// oldPins are pins of a map in other layouts, the newest first.
func (p pins) oldPins(name, current string) ([]string, error) {
	entries, err := os.ReadDir(p.mapsDir())
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	made := map[string]time.Time{}
	var out []string
	for _, e := range entries {
		at := strings.LastIndexByte(e.Name(), '-')
		if at < 0 || e.Name()[:at] != name || e.Name() == current {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("list pins: %w", err)
		}
		made[e.Name()] = info.ModTime()
		out = append(out, e.Name())
	}
	slices.SortFunc(out, func(a, b string) int { return made[b].Compare(made[a]) })
	return out, nil
}

// halfMade begins names of pins that replacePin has not put in place yet.
const halfMade = "new+"

// replacePin pins a map or link, also where another one is: at each moment one of both
// has the pin. pin makes one at the path it is given.
func replacePin(pin func(path string) error, path string) error {
	half := filepath.Join(filepath.Dir(path), halfMade+filepath.Base(path))
	if err := os.Remove(half); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin that a killed daemon did not put in place: %w", err)
	}
	if err := pin(half); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return named("put pin in place", os.Rename(half, path))
}

// removeHalfMade takes away links that a killed daemon did not put in place. Maps of that
// kind go with those of other layouts.
func (p pins) removeHalfMade() error {
	found, err := p.linkNames()
	for _, name := range found {
		if strings.HasPrefix(name, halfMade) {
			err = errors.Join(err, named("remove pin of half made link", os.Remove(filepath.Join(p.linksDir(), name))))
		}
	}
	return err
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}

// removeOldMaps unpins maps of other layouts; the kernel frees one when the
// last program that uses it is gone.
func (p pins) removeOldMaps(current map[string]*ebpf.MapSpec) error {
	keep := map[string]bool{}
	for _, pinName := range layoutNames(current) {
		keep[pinName] = true
	}
	found, err := names(p.mapsDir())
	if err != nil {
		return err
	}
	for _, name := range found {
		if keep[name] {
			continue
		}
		if err := os.Remove(p.mapPath(name)); err != nil {
			return fmt.Errorf("remove old map: %w", err)
		}
	}
	return nil
}

// remove takes every pin away, and the mount when it is ours.
func (p pins) remove() error {
	for _, dir := range []string{p.linksDir(), p.mapsDir()} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(p.dir))
	if err != nil {
		return fmt.Errorf("find mount of %s: %w", p.dir, err)
	}
	if len(mounts) == 0 || mounts[0].Source != mountSource {
		return nil // somebody else's bpffs
	}
	if err := unix.Unmount(p.dir, 0); err != nil {
		return fmt.Errorf("unmount bpffs at %s: %w", p.dir, err)
	}
	if err := os.Remove(p.dir); err != nil {
		return fmt.Errorf("remove bpffs directory: %w", err)
	}
	return nil
}
