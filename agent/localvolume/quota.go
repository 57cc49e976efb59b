package localvolume

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Project quotas, where the file system has them on (ext4 and xfs mounted with
// prjquota): a volume is a project, whose number all that is made in it
// inherits. Nothing is asked of a file system without them.
//
// The numbers of the calls are of linux/fs.h and linux/quota.h; quotactl_fd is
// of Linux 5.14.
const (
	getAttributes  = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes  = 0x401c5820 // FS_IOC_FSSETXATTR
	projectInherit = 0x200      // FS_XFLAG_PROJINHERIT

	getQuota      = 0x800007<<8 | projectQuota // Q_GETQUOTA
	setQuota      = 0x800008<<8 | projectQuota // Q_SETQUOTA
	projectQuota  = 2                          // PRJQUOTA
	blockLimits   = 1                          // QIF_BLIMITS
	quotaBlock    = 1 << 10                    // bytes in a block of a limit
	firstProject  = 1 << 20                    // far from what people number by hand
	projectsRange = 1 << 30
)

// attributes is struct fsxattr.
type attributes struct {
	flags, extent, extents, project, copyExtent uint32
	_                                           [8]byte
}

// blocks is struct if_dqblk; limits are in blocks of 1 KiB.
type blocks struct {
	hard, soft, usedBytes      uint64
	inodeHard, inodeSoft, used uint64
	blockTime, inodeTime       uint64
	valid                      uint32
	_                          uint32
}

// limit gives a volume its size, if the file system can hold it to one. One
// that could not be set is told and is no obstacle.
func (d *Directories) limit(name string, bytes int64) {
	d.projects.Lock() // two volumes must not take one number
	defer d.projects.Unlock()
	dir, err := os.Open(d.Path(name))
	if err == nil {
		defer dir.Close()
		err = d.limitDir(dir, name, bytes)
	}
	if err != nil {
		d.log.Warn("a volume is not held to its size", "volume", name, "error", err)
	}
}

func (d *Directories) limitDir(dir *os.File, name string, bytes int64) error {
	if !hasQuotas(dir) {
		return nil
	}
	project, err := projectOf(dir)
	if err == nil && project < firstProject {
		project = d.freeProject(name)
		err = setProject(dir, project)
	}
	if err != nil {
		return err
	}
	return setLimit(dir, project, bytes)
}

// unlimit forgets the limit of the project that path was. It is asked for
// before path is taken away, and the answer called afterwards.
func unlimit(path string) func() {
	dir, err := os.Open(path)
	if err != nil {
		return func() {}
	}
	project, err := projectOf(dir)
	if err != nil || project < firstProject || !hasQuotas(dir) {
		_ = dir.Close()
		return func() {}
	}
	return func() {
		_ = setLimit(dir, project, 0) // a limit of nothing harms nobody
		_ = dir.Close()
	}
}

// freeProject is a number no other volume has: the first free one from where
// the name points.
func (d *Directories) freeProject(name string) uint32 {
	taken := map[uint32]bool{}
	names, _ := d.Names() // without them the number is as good as any
	for _, other := range names {
		if dir, err := os.Open(d.Path(other)); err == nil {
			if project, err := projectOf(dir); err == nil {
				taken[project] = true
			}
			_ = dir.Close()
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	for i := h.Sum32(); ; i++ {
		if project := firstProject + i%projectsRange; !taken[project] {
			return project
		}
	}
}

// hasQuotas: the file system counts projects and holds them to limits.
func hasQuotas(dir *os.File) bool {
	var b blocks
	return quotactl(dir, getQuota, 0, &b) == nil
}

func projectOf(dir *os.File) (uint32, error) {
	var a attributes
	err := attribute(dir, getAttributes, &a)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		return 0, nil
	}
	return a.project, err
}

func setProject(dir *os.File, project uint32) error {
	var a attributes
	if err := attribute(dir, getAttributes, &a); err != nil {
		return err
	}
	a.project, a.flags = project, a.flags|projectInherit
	return attribute(dir, setAttributes, &a)
}

func setLimit(dir *os.File, project uint32, bytes int64) error {
	hard := uint64(bytes+quotaBlock-1) / quotaBlock
	return quotactl(dir, setQuota, project, &blocks{hard: hard, soft: hard, valid: blockLimits})
}

func attribute(dir *os.File, request uintptr, a *attributes) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(a))); errno != 0 {
		return fmt.Errorf("read or set the project of %s: %w", dir.Name(), errno)
	}
	return nil
}

func quotactl(dir *os.File, command uintptr, project uint32, b *blocks) error {
	if _, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), command, uintptr(project), uintptr(unsafe.Pointer(b)), 0, 0); errno != 0 {
		return fmt.Errorf("quota of project %d at %s: %w", project, dir.Name(), errno)
	}
	return nil
}
