package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

// Permission bits that a pod's group gets, as the kubelet's SetVolumeOwnership.
const (
	groupWrites = fs.FileMode(0o660)
	groupReads  = fs.FileMode(0o440)
	groupEnters = fs.FileMode(0o110)
)

func fsGroup(pod *v1.Pod) (int, bool) {
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		return int(*sc.FSGroup), true
	}
	return 0, false
}

// GiveToGroup gives everything below dir to the pod's fsGroup, unless it has
// none. readOnly leaves its members without the right to write. With policy
// OnRootMismatch nothing is done if dir itself is as it should be; a nil
// policy means always. dir comes last, so that one that was broken off is not
// taken for done.
func GiveToGroup(dir string, pod *v1.Pod, readOnly bool, policy *v1.PodFSGroupChangePolicy) error {
	gid, ok := fsGroup(pod)
	if !ok {
		return nil
	}
	if policy != nil && *policy == v1.FSGroupChangeOnRootMismatch && rootMatches(dir, gid, readOnly) {
		return nil
	}
	return giveDeep(dir, gid, readOnly)
}

// giveDeep never follows a link. What vanishes meanwhile is no error: others
// may be writing.
func giveDeep(path string, gid int, readOnly bool) error {
	info, err := os.Lstat(path)
	if err != nil {
		return ignoreGone(err)
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return ignoreGone(err)
		}
		for _, e := range entries {
			if err := giveDeep(filepath.Join(path, e.Name()), gid, readOnly); err != nil {
				return err
			}
		}
	}
	return ignoreGone(give(path, info, gid, readOnly))
}

func give(path string, info fs.FileInfo, gid int, readOnly bool) error {
	if err := os.Lchown(path, -1, gid); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil // its mode means nothing, and chmod would follow it
	}
	return os.Chmod(path, info.Mode()|groupMask(info.IsDir(), readOnly))
}

func groupMask(dir, readOnly bool) fs.FileMode {
	mask := groupWrites
	if readOnly {
		mask = groupReads
	}
	if dir {
		mask |= fs.ModeSetgid | groupEnters
	}
	return mask
}

func rootMatches(dir string, gid int, readOnly bool) bool {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	mask := groupMask(true, readOnly)
	return ok && int(st.Gid) == gid && info.Mode()&mask == mask
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
