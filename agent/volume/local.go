package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/mount-utils"
)

// Local is the Driver of persistent volumes that are a directory or a block
// device of this host (spec.local).
//
// It makes no data: a path that is not there is an error the user reads, never
// a new directory. While a pod has the volume, its directory holds a link to
// the path (sourceLink), by which InUse knows, also in a later daemon.
type Local struct {
	// NodeLabels are this host's, which a volume's node affinity is held to.
	NodeLabels func(context.Context) (map[string]string, error)
	// Warn tells the pod's user of what is odd and no obstacle.
	Warn func(pod *v1.Pod, reason, message string)

	mu sync.Mutex
	// users are the pods of this daemon's life that have a path. Guarded by mu.
	users map[string]map[string]bool
	// owning is held while files of a volume are given to a group, so that two
	// pods that start together do not both walk them.
	owning sync.Mutex
}

// In a pod's directory of a local volume:
const (
	sourceLink = "source" // a link to the volume's path, from before it is used
	ownedMark  = "owned"  // its files were given to the pod's fsGroup
	mountPoint = "mount"  // where it is mounted, if it has mount options
)

// Setup implements Driver.
func (l *Local) Setup(ctx context.Context, r *Request) (Mounted, error) {
	if err := l.checkHost(ctx, r.PV); err != nil {
		return Mounted{}, &StepError{Step: "NodeAffinity check", Err: err}
	}
	path := r.PV.Spec.Local.Path
	if err := l.use(r, path); err != nil {
		return Mounted{}, err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Mounted{}, fmt.Errorf("path %q does not exist: the data of volume %s is not on this host any more; bring it back there, or delete the claim to give it up", path, r.PV.Name)
	case err != nil:
		return Mounted{}, err
	case r.Block():
		if !isBlockDevice(info) {
			return Mounted{}, fmt.Errorf("path %q is not a block device, which volumeMode Block needs", path)
		}
		return Mounted{Path: path, Block: true}, nil
	case isBlockDevice(info):
		return Mounted{}, fmt.Errorf("path %q is a block device and a file system on it is %w here: mount it on the host and name the mount point, or use volumeMode Block", path, ErrUnsupported)
	case !info.IsDir():
		return Mounted{}, fmt.Errorf("path %q is neither a directory nor a block device", path)
	}
	if err := l.own(r, path); err != nil {
		return Mounted{}, err
	}
	if len(r.PV.Spec.MountOptions) > 0 {
		path, err = mountWith(r, path)
	}
	return Mounted{Path: path}, err
}

func isBlockDevice(info fs.FileInfo) bool {
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
}

func (l *Local) checkHost(ctx context.Context, pv *v1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil {
		return nil
	}
	labels, err := l.NodeLabels(ctx)
	if err != nil {
		return err
	}
	return storagehelpers.CheckNodeAffinity(pv, labels)
}

// use notes on disk and in memory that the pod has the path.
func (l *Local) use(r *Request, path string) error {
	if err := os.MkdirAll(r.Dir, 0o750); err != nil {
		return err
	}
	link := filepath.Join(r.Dir, sourceLink)
	if now, err := os.Readlink(link); err != nil || now != path {
		if err := os.RemoveAll(link); err != nil {
			return err
		}
		if err := os.Symlink(path, link); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == nil {
		l.users = map[string]map[string]bool{}
	}
	if l.users[path] == nil {
		l.users[path] = map[string]bool{}
	}
	l.users[path][string(r.Pod.UID)] = true
	return nil
}

// own gives the files to the pod's fsGroup, as the kubelet does: once for each
// pod, and not while another pod has them.
func (l *Local) own(r *Request, path string) error {
	sc := r.Pod.Spec.SecurityContext
	if r.ReadOnly || sc == nil || sc.FSGroup == nil {
		return nil
	}
	mark := filepath.Join(r.Dir, ownedMark)
	if _, err := os.Lstat(mark); err == nil {
		return nil
	}
	l.owning.Lock()
	defer l.owning.Unlock()
	if l.shared(path, string(r.Pod.UID)) {
		l.warnOfGroup(r, path, *sc.FSGroup)
	} else if err := GiveToGroup(path, r.Pod, false, sc.FSGroupChangePolicy); err != nil {
		return fmt.Errorf("give %s to group %d: %w", path, *sc.FSGroup, err)
	}
	return os.WriteFile(mark, nil, 0o600)
}

func (l *Local) shared(path, podUID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	users := l.users[path]
	return len(users) > 1 || len(users) == 1 && !users[podUID]
}

func (l *Local) warnOfGroup(r *Request, path string, group int64) {
	info, err := os.Stat(path)
	if err != nil || l.Warn == nil {
		return
	}
	if old := groupOf(info); old != group {
		l.Warn(r.Pod, "AlreadyMountedVolume", fmt.Sprintf("The requested fsGroup is %d, but the volume %s has GID %d. The volume may not be shareable.", group, r.PV.Name, old))
	}
}

// mountWith mounts the directory once more, with the volume's own options.
func mountWith(r *Request, path string) (string, error) {
	at := filepath.Join(r.Dir, mountPoint)
	if IsMountPoint(at) {
		return at, nil
	}
	if err := os.MkdirAll(at, 0o750); err != nil {
		return "", err
	}
	options := append([]string{"bind"}, r.PV.Spec.MountOptions...)
	if err := mount.New("").MountSensitiveWithoutSystemd(path, at, "", options, nil); err != nil {
		return "", err
	}
	return at, nil
}

// Teardown implements Driver.
func (l *Local) Teardown(_ context.Context, podUID, _, dir string) error {
	path, err := os.Readlink(filepath.Join(dir, sourceLink))
	if err != nil {
		return nil // never used
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.users[path], podUID)
	if len(l.users[path]) == 0 {
		delete(l.users, path)
	}
	return nil
}

// InUse reports whether a pod of this host, known to the API or not, still has
// the local volume at path.
func (v *Volumes) InUse(path string) (bool, error) {
	links, err := filepath.Glob(filepath.Join(v.dir, "*", volumesDir, string(KindLocal), "*", sourceLink))
	if err != nil {
		return false, fmt.Errorf("look for users of %s: %w", path, err)
	}
	for _, link := range links {
		if used, err := os.Readlink(link); err == nil && used == path {
			return true, nil
		}
	}
	return false, nil
}
