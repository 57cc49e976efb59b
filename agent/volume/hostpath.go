package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	v1 "k8s.io/api/core/v1"
)

// hostPath is the Driver of paths of the host, also behind claims.
type hostPath struct{}

func (hostPath) Teardown(context.Context, string, string, string) error { return nil }

func (hostPath) Setup(_ context.Context, r *Request) (Mounted, error) {
	src := r.Volume.HostPath
	if r.PV != nil {
		src = r.PV.Spec.HostPath
	}
	return Mounted{Path: src.Path}, checkHostPath(src)
}

// checkHostPath checks or makes the path as its type asks.
func checkHostPath(src *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if src.Type != nil {
		kind = *src.Type
	}
	switch kind {
	case v1.HostPathDirectoryOrCreate:
		return os.MkdirAll(src.Path, 0o755)
	case v1.HostPathFileOrCreate:
		f, err := os.OpenFile(src.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	info, err := os.Stat(src.Path)
	if kind == v1.HostPathUnset {
		if errors.Is(err, fs.ErrNotExist) {
			return os.MkdirAll(src.Path, 0o755)
		}
		return err
	}
	if err != nil {
		return err
	}
	want, known := map[v1.HostPathType]fs.FileMode{
		v1.HostPathDirectory: fs.ModeDir,
		v1.HostPathFile:      0,
		v1.HostPathSocket:    fs.ModeSocket,
		v1.HostPathCharDev:   fs.ModeDevice | fs.ModeCharDevice,
		v1.HostPathBlockDev:  fs.ModeDevice,
	}[kind]
	if !known {
		return fmt.Errorf("hostPath type %q is %w", kind, ErrUnsupported)
	}
	if info.Mode().Type() != want {
		return fmt.Errorf("hostPath %s is not a %s", src.Path, kind)
	}
	return nil
}
