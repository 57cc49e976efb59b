package localvolume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// volumeMode lets any user of a container write, as in an emptyDir; a pod's
	// fsGroup narrows it. Nobody else of the host gets there: the data
	// directory above is for root only.
	volumeMode = 0o777
	// trash has what was deleted by rename and is not yet removed.
	trash = ".deleted"
)

// Directories is the Backend whose volumes are directories of one directory.
type Directories struct {
	dir string
	// promised tells the sum of the sizes of all volumes here, in bytes.
	promised func() int64
	log      *slog.Logger

	projects sync.Mutex // held while a volume gets its project's number
}

var _ Backend = (*Directories)(nil)

// OpenDirectories makes the directory of all volumes.
func OpenDirectories(dir string, promised func() int64, log *slog.Logger) (*Directories, error) {
	if err := os.MkdirAll(filepath.Join(dir, trash), 0o711); err != nil {
		return nil, fmt.Errorf("open the directory of volumes: %w", err)
	}
	return &Directories{dir: dir, promised: promised, log: log}, nil
}

// Path is where the volume of a name is.
func (d *Directories) Path(name string) string { return filepath.Join(d.dir, name) }

// Provision implements Backend.
func (d *Directories) Provision(_ context.Context, name string, bytes int64) (v1.PersistentVolumeSource, error) {
	path := d.Path(name)
	source := v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if room, err := d.Room(); err != nil || bytes > room {
			return source, errors.Join(err, noRoom(d.dir, bytes, room))
		}
	}
	if err := os.Mkdir(path, volumeMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return source, fmt.Errorf("make directory of volume %s: %w", name, err)
	}
	if err := os.Chmod(path, volumeMode); err != nil { // beyond the umask
		return source, fmt.Errorf("make directory of volume %s: %w", name, err)
	}
	d.limit(name, bytes)
	if err := errors.Join(syncDir(path), syncDir(d.dir)); err != nil {
		return source, fmt.Errorf("write directory of volume %s to the disk: %w", name, err)
	}
	return source, nil
}

func noRoom(dir string, asked, room int64) error {
	if asked <= room {
		return nil
	}
	return &NoRoomError{Dir: dir, Asked: asked, Room: room}
}

// Expand implements Backend.
func (d *Directories) Expand(_ context.Context, name string, from, to int64) error {
	room, err := d.Room()
	if err != nil {
		return err
	}
	if err := noRoom(d.dir, to-from, room); err != nil {
		return err
	}
	d.limit(name, to)
	return nil
}

// Room is how many bytes of new volumes there is room for: what is free, and no
// more than what all volumes together leave of the file system.
func (d *Directories) Room() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, fmt.Errorf("see how much of the disk is free: %w", err)
	}
	free, all := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	return min(free, all-d.promised()), nil
}

// Delete implements Backend. The directory leaves its name at once; Purge
// removes what is in it.
func (d *Directories) Delete(_ context.Context, name string) error {
	path := d.Path(name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return fmt.Errorf("see what is mounted below %s: %w", path, err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("something is mounted at %s, below the volume; unmount it", mounts[0].Mountpoint)
	}
	forget := unlimit(path)
	defer forget()
	into, err := os.MkdirTemp(filepath.Join(d.dir, trash), name+"-")
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	if err := os.Rename(path, filepath.Join(into, name)); err != nil {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	if err := errors.Join(syncDir(into), syncDir(d.dir)); err != nil {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	return nil
}

// Purge removes the files of deleted volumes. What it leaves, for an error or
// because the context ended, is taken by the next one.
func (d *Directories) Purge(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(d.dir, trash))
	if err != nil {
		return fmt.Errorf("remove deleted volumes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		if err := os.RemoveAll(filepath.Join(d.dir, trash, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("remove deleted volumes: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Names lists the directories there are.
func (d *Directories) Names() ([]string, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Drop takes a directory away that no volume names, if it is empty. Kept
// reports that it is not, and stays.
func (d *Directories) Drop(name string) (kept bool, err error) {
	forget := unlimit(d.Path(name))
	defer forget()
	err = os.Remove(d.Path(name)) // rmdir never takes data
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
		return true, nil
	}
	return true, err
}

// syncDir has a directory's entries on the disk when it returns.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func size(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }
