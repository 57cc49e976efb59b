package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/userns"
	"shoal/agent/volume"
)

// What a container with a user namespace gets is mounted with mapped owners
// below the pod's pins, where no container sees it, and given to the runtime as
// the source. Once the container is made it has clones of its own, and these
// mounts go. What a killed daemon left goes when the next one starts.

// stageDir is the directory below a pod's pins that has them.
const stageDir = "mapped"

func (p *pins) stage(podUID, id string) string {
	return filepath.Join(p.dir, podUID, stageDir, id)
}

// unstage unmounts and removes what was staged for one container.
func (p *pins) unstage(podUID, id string) error {
	dir := p.stage(podUID, id)
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("unmount mapped sources: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		for volume.IsMountPoint(path) {
			if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("unmount mapped source %s: %w", path, err)
			}
		}
		if err := os.Remove(path); err != nil { // never what is behind a mount
			return fmt.Errorf("remove mapped source: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove mapped sources: %w", err)
	}
	return nil
}

// unstageAll does so for all containers of a pod.
func (p *pins) unstageAll(podUID string) error {
	entries, err := os.ReadDir(filepath.Join(p.dir, podUID, stageDir))
	if err != nil {
		return nil // there are none
	}
	for _, e := range entries {
		if err := p.unstage(podUID, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// unstagePods does so for all pods.
func (p *pins) unstagePods() error {
	uids, err := p.list()
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if err := p.unstageAll(uid); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) unstage(pod *v1.Pod, id string) {
	if err := w.r.pins.unstage(string(pod.UID), id); err != nil {
		w.log.Warn("mapped mounts of a container stay until the daemon starts again", "container", id, "error", err)
	}
}

// mapMounts gives the mounts with mapped sources.
func (w *worker) mapMounts(pod *v1.Pod, c *v1.Container, p *prepared, mounts []specs.Mount) ([]specs.Mount, error) {
	if w.box.users == nil {
		return mounts, nil
	}
	dir := w.r.pins.stage(string(pod.UID), p.id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("map ids of mounts: %w", err)
	}
	done := w.imageMounts(pod, c)
	out := slices.Clone(mounts)
	for i := range out {
		m := &out[i]
		if !done[m.Destination] {
			target := filepath.Join(dir, strconv.Itoa(i))
			if err := w.mapSource(m.Source, target); err != nil {
				return nil, fmt.Errorf("failed to mount %q at %q in a user namespace: %w", m.Source, m.Destination, err)
			}
			m.Source = target
		}
		options, err := keepFlags(m.Source, m.Options)
		if err != nil {
			return nil, err
		}
		m.Options = options
	}
	return out, nil
}

// imageMounts are the destinations of image volumes, whose layers are mapped.
func (w *worker) imageMounts(pod *v1.Pod, c *v1.Container) map[string]bool {
	out := map[string]bool{}
	for _, m := range c.VolumeMounts {
		if w.imageVolume(pod, m.Name) != nil {
			out[absolute(m.MountPath)] = true
		}
	}
	return out
}

func (w *worker) mapSource(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil && !os.IsExist(err) {
		return err
	}
	// What a symbolic link of a volume names is what is meant.
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return err
	}
	return userns.Bind(w.box.users.path, source, target)
}

// keepFlags adds to options what the source is mounted with: inside a user
// namespace these flags are locked, and runc before 1.2 would try to lose them.
func keepFlags(source string, options []string) ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(source, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", source, err)
	}
	out := slices.Clone(options)
	for _, f := range []struct {
		flag int64
		name string
	}{{unix.ST_NOSUID, "nosuid"}, {unix.ST_NODEV, "nodev"}, {unix.ST_NOEXEC, "noexec"}} {
		if st.Flags&f.flag != 0 {
			out = append(out, f.name)
		}
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		if i := slices.Index(out, "rw"); i >= 0 {
			out[i] = "ro"
		}
	}
	return out, nil
}

// mapRoot puts the container's root file system, with its layers mapped, in the
// place of the snapshot's mounts.
func (w *worker) mapRoot(pod *v1.Pod, p *prepared) error {
	if w.box.users == nil {
		return nil
	}
	mounts := make([]mount.Mount, len(p.mounts))
	for i := range p.mounts {
		m := &p.mounts[i]
		mounts[i] = mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options}
	}
	target := filepath.Join(w.r.pins.stage(string(pod.UID), p.id), "root")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("map ids of the root file system: %w", err)
	}
	if err := w.mapLayers(pod, p.id, mounts, target); err != nil {
		return err
	}
	p.mounts = []mountSpec{{Type: "bind", Source: target, Options: []string{"rbind", "rw"}}}
	return nil
}

// mapVolume mounts an image volume at dir with its layers mapped.
func (w *worker) mapVolume(pod *v1.Pod, key string, mounts []mount.Mount, dir string) error {
	err := w.mapLayers(pod, key, mounts, dir)
	w.unstage(pod, key)
	return err
}

// mapLayers mounts what a snapshot is made of at target, with mapped owners.
func (w *worker) mapLayers(pod *v1.Pod, id string, mounts []mount.Mount, target string) error {
	if len(mounts) != 1 {
		return fmt.Errorf("map ids of a root file system: snapshotter %s makes it of %d mounts, not one", w.r.Snapshotter, len(mounts))
	}
	layers := filepath.Join(w.r.pins.stage(string(pod.UID), id), "layers")
	if err := os.MkdirAll(layers, 0o755); err != nil {
		return fmt.Errorf("map ids of a root file system: %w", err)
	}
	root := userns.Root{Type: mounts[0].Type, Source: mounts[0].Source, Options: mounts[0].Options}
	return root.Mount(w.box.users.path, w.box.users.first, layers, target)
}
