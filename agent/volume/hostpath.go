package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume/validation"
)

// hostPath is the Driver of paths of the host, also behind claims. It never
// changes or removes what is there.
type hostPath struct{}

func (hostPath) Teardown(context.Context, string, string, string) error { return nil }

func (hostPath) Setup(_ context.Context, r *Request) (Mounted, error) {
	src := r.Volume.HostPath
	if r.PV != nil {
		src = r.PV.Spec.HostPath
	}
	if err := validation.ValidatePathNoBacksteps(src.Path); err != nil {
		return Mounted{}, fmt.Errorf("invalid HostPath `%s`: %w", src.Path, err)
	}
	kind := v1.HostPathUnset
	if src.Type != nil {
		kind = *src.Type
	}
	if kind == v1.HostPathUnset && r.PV != nil {
		// Its data vanished: an empty directory in its place would hide that.
		if _, err := os.Stat(src.Path); err != nil {
			return Mounted{}, fmt.Errorf("path %q does not exist; make it again, or set the volume's hostPath.type to DirectoryOrCreate", src.Path)
		}
	}
	return Mounted{Path: src.Path}, checkHostPath(src.Path, kind)
}

// checkHostPath checks or makes the path as its type asks, in the kubelet's
// words. A path of no type that is not there becomes a directory, as CRI
// runtimes make it.
func checkHostPath(path string, kind v1.HostPathType) error {
	info, err := os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch kind {
	case v1.HostPathUnset:
		if missing {
			return os.MkdirAll(path, 0o755)
		}
		return err
	case v1.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(path, 0o755)
		}
	case v1.HostPathFileOrCreate:
		if missing {
			return makeFile(path)
		}
	}
	want, ok := hostPathNames[kind]
	switch {
	case !ok:
		return fmt.Errorf("%s is an invalid volume type", kind)
	case missing:
		return fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: path %q does not exist", path, want.name, path)
	case err != nil:
		return fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: %w", path, want.name, err)
	}
	is := typeOf(info.Mode())
	if is == "" {
		return fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: only recognise file, directory, socket, block device and character device", path, want.name)
	}
	if is != want.is {
		return fmt.Errorf("hostPath type check failed: %s is not a %s, it's a %s", path, want.name, is)
	}
	return nil
}

// hostPathNames are what each type must be, and what users call it.
var hostPathNames = map[v1.HostPathType]struct {
	is   v1.HostPathType
	name string
}{
	v1.HostPathDirectoryOrCreate: {v1.HostPathDirectory, "directory"},
	v1.HostPathDirectory:         {v1.HostPathDirectory, "directory"},
	v1.HostPathFileOrCreate:      {v1.HostPathFile, "file"},
	v1.HostPathFile:              {v1.HostPathFile, "file"},
	v1.HostPathSocket:            {v1.HostPathSocket, "socket file"},
	v1.HostPathCharDev:           {v1.HostPathCharDev, "character device"},
	v1.HostPathBlockDev:          {v1.HostPathBlockDev, "block device"},
}

func typeOf(mode fs.FileMode) v1.HostPathType {
	switch mode.Type() {
	case 0:
		return v1.HostPathFile
	case fs.ModeDir:
		return v1.HostPathDirectory
	case fs.ModeSocket:
		return v1.HostPathSocket
	case fs.ModeDevice:
		return v1.HostPathBlockDev
	case fs.ModeDevice | fs.ModeCharDevice:
		return v1.HostPathCharDev
	}
	return ""
}

func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
