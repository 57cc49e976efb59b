package volume

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// emptyDir is the Driver of directories that live as long as their pod.
type emptyDir struct{}

func (emptyDir) Teardown(context.Context, string, string, string) error { return nil }

func (emptyDir) Setup(_ context.Context, r *Request) (Mounted, error) {
	dir, src := r.Dir, r.Volume.EmptyDir
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return Mounted{}, err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return Mounted{}, err
	}
	switch src.Medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		if isMountPoint(dir) {
			return Mounted{Path: dir}, nil
		}
		opts := "mode=0777"
		if limit := src.SizeLimit; limit != nil && limit.Value() > 0 {
			opts += ",size=" + strconv.FormatInt(limit.Value(), 10)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
			return Mounted{}, fmt.Errorf("mount tmpfs: %w", err)
		}
	default:
		return Mounted{}, fmt.Errorf("emptyDir.medium %s is %w here", src.Medium, ErrUnsupported)
	}
	return Mounted{Path: dir}, ownBy(dir, r.Pod, true)
}
