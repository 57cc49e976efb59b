// Package volume makes the directories a pod's volumes live in.
//
// Always true: Setup and Teardown may be repeated; configuration is replaced
// atomically, so a container sees all of one version or all of another;
// secrets and tokens are only ever on a tmpfs; a volume type that is not
// supported is an error that names the field, before anything is made.
//
// The pod runner calls it, and decides when. It does not mount anything into
// containers; it says which host path a volume is.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// Source gives the objects that volumes are filled from.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	Token(ctx context.Context, namespace, serviceAccount string, req *authv1.TokenRequest) (*authv1.TokenRequest, error)
}

// Volumes owns the volume directories below one data directory.
type Volumes struct {
	dir     string // pods/UID/volumes/NAME below it
	secrets string // the one tmpfs for all secrets
	source  Source
}

// Open mounts the tmpfs for secrets if it is not mounted yet. One for all
// pods: a mount for each secret volume would cost every pod start and stop.
func Open(dataDir string, source Source) (*Volumes, error) {
	v := &Volumes{dir: filepath.Join(dataDir, "pods"), secrets: filepath.Join(dataDir, "secrets"), source: source}
	for _, d := range []string{v.dir, v.secrets} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, fmt.Errorf("open volumes: %w", err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(v.secrets, &st); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	if st.Type == unix.TMPFS_MAGIC && isMountPoint(v.secrets) {
		return v, nil
	}
	if err := unix.Mount("tmpfs", v.secrets, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0750"); err != nil {
		return nil, fmt.Errorf("mount tmpfs for secrets at %s: %w", v.secrets, err)
	}
	return v, nil
}

func isMountPoint(dir string) bool {
	var at, parent unix.Stat_t
	if unix.Stat(dir, &at) != nil || unix.Stat(filepath.Dir(dir), &parent) != nil {
		return false
	}
	return at.Dev != parent.Dev
}

// Close unmounts the tmpfs. Only for when no pod is left.
func (v *Volumes) Close() error {
	// Detached, so that whoever looks into it does not keep the mount.
	for isMountPoint(v.secrets) {
		if err := unix.Unmount(v.secrets, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", v.secrets, err)
		}
	}
	return nil
}

// Path is the host path of a pod's volume.
func (v *Volumes) Path(pod *v1.Pod, vol *v1.Volume) string {
	switch {
	case vol.HostPath != nil:
		return vol.HostPath.Path
	case vol.Secret != nil, hasSecrets(vol.Projected):
		return filepath.Join(v.secrets, string(pod.UID), vol.Name)
	}
	return filepath.Join(v.dir, string(pod.UID), "volumes", vol.Name)
}

func hasSecrets(p *v1.ProjectedVolumeSource) bool {
	if p == nil {
		return false
	}
	for _, s := range p.Sources {
		if s.Secret != nil || s.ServiceAccountToken != nil {
			return true
		}
	}
	return false
}

// ErrUnsupported is wrapped by errors about fields shoal does not have.
var ErrUnsupported = errors.New("not supported")

// Check names the first volume whose type is not supported.
func Check(pod *v1.Pod) error {
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		switch {
		case vol.EmptyDir != nil, vol.HostPath != nil, vol.ConfigMap != nil,
			vol.Secret != nil, vol.DownwardAPI != nil:
		case vol.Projected != nil:
			for _, s := range vol.Projected.Sources {
				if s.ClusterTrustBundle != nil || s.PodCertificate != nil {
					return fmt.Errorf("spec.volumes[%d] (%s): this projected source is %w here", i, vol.Name, ErrUnsupported)
				}
			}
		default:
			return fmt.Errorf("spec.volumes[%d] (%s): this volume type is %w here; use emptyDir, hostPath, configMap, secret, downwardAPI or projected", i, vol.Name, ErrUnsupported)
		}
	}
	return nil
}

// Setup makes all of the pod's volumes, with their content.
func (v *Volumes) Setup(ctx context.Context, pod *v1.Pod) error {
	if err := Check(pod); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		g.Go(func() error {
			if err := v.setup(ctx, pod, vol); err != nil {
				return fmt.Errorf("set up volume %s: %w", vol.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (v *Volumes) setup(ctx context.Context, pod *v1.Pod, vol *v1.Volume) error {
	switch {
	case vol.EmptyDir != nil:
		return v.emptyDir(pod, vol)
	case vol.HostPath != nil:
		return hostPath(vol.HostPath)
	}
	return v.Refresh(ctx, pod, vol)
}

// Refresh brings a configuration volume up to what its objects say now.
func (v *Volumes) Refresh(ctx context.Context, pod *v1.Pod, vol *v1.Volume) error {
	files, err := v.payload(ctx, pod, vol)
	if err != nil {
		return err
	}
	dir := v.Path(pod, vol)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	w, err := volumeutil.NewAtomicWriter(dir, "volume "+vol.Name)
	if err != nil {
		return err
	}
	return w.Write(files, func(sub string) error { return ownBy(filepath.Join(dir, sub), pod, false) })
}

// Config reports whether the volume has content that Refresh can renew.
func Config(vol *v1.Volume) bool {
	return vol.ConfigMap != nil || vol.Secret != nil || vol.DownwardAPI != nil || vol.Projected != nil
}

func (v *Volumes) emptyDir(pod *v1.Pod, vol *v1.Volume) error {
	dir := v.Path(pod, vol)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	switch vol.EmptyDir.Medium {
	case v1.StorageMediumDefault:
	case v1.StorageMediumMemory:
		if isMountPoint(dir) {
			return nil
		}
		opts := "mode=0777"
		if limit := vol.EmptyDir.SizeLimit; limit != nil && limit.Value() > 0 {
			opts += ",size=" + strconv.FormatInt(limit.Value(), 10)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
	default:
		return fmt.Errorf("emptyDir.medium %s is %w here", vol.EmptyDir.Medium, ErrUnsupported)
	}
	return ownBy(dir, pod, true)
}

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

// Teardown takes the pod's volumes away. Host paths stay.
func (v *Volumes) Teardown(podUID string) error {
	var errs []error
	base := filepath.Join(v.dir, podUID, "volumes")
	entries, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		if dir := filepath.Join(base, e.Name()); isMountPoint(dir) {
			errs = append(errs, unix.Unmount(dir, unix.MNT_DETACH))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take down volumes of pod %s: %w", podUID, err)
	}
	if err := errors.Join(os.RemoveAll(base), os.RemoveAll(filepath.Join(v.secrets, podUID))); err != nil {
		return fmt.Errorf("take down volumes of pod %s: %w", podUID, err)
	}
	return nil
}
