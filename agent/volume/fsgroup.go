package volume

import (
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// ownBy gives everything below dir to the pod's fsGroup.
func ownBy(dir string, pod *v1.Pod, writable bool) error {
	sc := pod.Spec.SecurityContext
	if sc == nil || sc.FSGroup == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, int(*sc.FSGroup)); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return err
		}
		mode := info.Mode().Perm() | 0o440
		if writable {
			mode |= 0o660
		}
		keep := info.Mode() & (fs.ModeSetuid | fs.ModeSticky)
		if d.IsDir() {
			mode |= 0o110
			keep |= fs.ModeSetgid
		}
		return os.Chmod(path, mode|keep)
	})
}
