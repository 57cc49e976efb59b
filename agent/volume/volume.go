// Package volume makes the directories a pod's volumes live in.
//
// A Driver makes the volumes of one kind. What a claim is bound to comes from
// the Source, and the driver of that kind of persistent volume makes it.
//
// Always true: Setup and Teardown may be repeated; configuration is replaced
// atomically, so a container sees all of one version or all of another;
// secrets and tokens are only ever on a tmpfs; a volume type that is not
// supported is an error that names the field, before anything is made; nothing
// behind a mount is ever removed with a pod.
//
// The pod runner calls it, and decides when. It does not mount anything into
// containers; it says which host path a volume is.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Source gives the objects that volumes are filled from.
type Source interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	Token(ctx context.Context, namespace, serviceAccount string, req *authv1.TokenRequest) (*authv1.TokenRequest, error)
	// Claim gives a claim and the volume it is bound to. A claim that is not
	// there or not bound is an error in the kubelet's words.
	Claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error)
}

// Certificates gives what projected volumes have of certificates, as PEM.
type Certificates interface {
	TrustAnchors(ctx context.Context, p *v1.ClusterTrustBundleProjection) ([]byte, error)
	// PodCertificate is an error until there is one.
	PodCertificate(ctx context.Context, pod *v1.Pod, volume string, source int) (key, chain []byte, err error)
}

// Volumes owns the volume directories below one data directory.
type Volumes struct {
	dir     string // pods/UID/volumes/KIND/NAME below it
	secrets string // the one tmpfs for all secrets
	source  Source
	drivers map[Kind]Driver
	config  *configuration
	// Allocatable is what this node has for pods; nil means that nobody
	// knows. It is set before the first Setup.
	Allocatable func() v1.ResourceList
	// Certificates gives projected volumes theirs; nil means that there are
	// none here. It is set before the first Setup.
	Certificates Certificates

	mu   sync.Mutex
	pods map[types.UID]*podVolumes // guarded by mu
}

// podVolumes are a pod's volumes in this daemon's life.
type podVolumes struct {
	mounted map[string]Mounted // by volume; guarded by Volumes.mu
	// writing is held while a renewal writes, so that Teardown does not
	// remove what is being made.
	writing sync.Mutex
	gone    bool // guarded by writing
}

// errGone is a renewal that came too late.
var errGone = errors.New("the pod's volumes are taken down")

// write runs f unless Teardown was there before.
func (p *podVolumes) write(f func() error) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.gone {
		return errGone
	}
	return f()
}

// Open mounts the tmpfs for secrets if it is not mounted yet. One for all
// pods: a mount for each secret volume would cost every pod start and stop.
func Open(dataDir string, source Source) (*Volumes, error) {
	v := &Volumes{
		dir: filepath.Join(dataDir, "pods"), secrets: filepath.Join(dataDir, "secrets"), source: source,
		pods: map[types.UID]*podVolumes{},
	}
	config := &configuration{source: source, allocatable: v.NodeAllocatable, certificates: func() Certificates { return v.Certificates }}
	v.config = config
	v.drivers = map[Kind]Driver{
		KindEmptyDir: emptyDir{v.NodeAllocatable}, KindHostPath: hostPath{},
		KindConfigMap: config, KindSecret: config, KindDownward: config, KindProjected: config,
	}
	for _, d := range []string{v.dir, v.secrets} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, fmt.Errorf("open volumes: %w", err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(v.secrets, &st); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	if st.Type == unix.TMPFS_MAGIC && IsMountPoint(v.secrets) {
		return v, nil
	}
	if err := unix.Mount("tmpfs", v.secrets, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0750"); err != nil {
		return nil, fmt.Errorf("mount tmpfs for secrets at %s: %w", v.secrets, err)
	}
	return v, nil
}

// Close unmounts the tmpfs. Only for when no pod is left.
func (v *Volumes) Close() error {
	// Detached, so that whoever looks into it does not keep the mount.
	for IsMountPoint(v.secrets) {
		if err := unix.Unmount(v.secrets, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", v.secrets, err)
		}
	}
	return nil
}

// Check names the first volume in use whose type is not supported. Which kind of
// persistent volume a claim is bound to is seen only by Setup.
func (v *Volumes) Check(pod *v1.Pod) error {
	for _, i := range used(pod) {
		vol := &pod.Spec.Volumes[i]
		if claimOf(pod, vol) == "" && v.drivers[kindOf(vol)] == nil {
			return fmt.Errorf("spec.volumes[%d] (%s): this volume type is %w here; use emptyDir, hostPath, configMap, secret, downwardAPI, projected, image or persistentVolumeClaim", i, vol.Name, ErrUnsupported)
		}
		if vol.Projected == nil {
			continue
		}
		for _, s := range vol.Projected.Sources {
			if v.Certificates == nil && (s.ClusterTrustBundle != nil || s.PodCertificate != nil) {
				return fmt.Errorf("spec.volumes[%d] (%s): this projected source is %w here", i, vol.Name, ErrUnsupported)
			}
		}
	}
	return nil
}

// Setup makes the volumes that the pod's containers use, with their content.
// What went wrong is a MountError for each volume that failed, joined.
func (v *Volumes) Setup(ctx context.Context, pod *v1.Pod) error {
	if err := v.Check(pod); err != nil {
		return err
	}
	return v.setupAll(ctx, pod, used(pod))
}

// SetupMissing makes those of the named volumes that are not Mounted, for a
// container that came to a pod that runs. Errors are as Setup's.
func (v *Volumes) SetupMissing(ctx context.Context, pod *v1.Pod, names []string) error {
	if err := v.Check(pod); err != nil {
		return err
	}
	missing := slices.DeleteFunc(used(pod), func(i int) bool {
		name := pod.Spec.Volumes[i].Name
		_, made := v.Mounted(pod.UID, name)
		return made || !slices.Contains(names, name)
	})
	return v.setupAll(ctx, pod, missing)
}

// setupAll sets up the pod's volumes of these indices.
func (v *Volumes) setupAll(ctx context.Context, pod *v1.Pod, use []int) error {
	n := len(use)
	if n == 0 {
		return nil
	}
	made, errs := make([]Mounted, n), make([]error, n)
	var wg sync.WaitGroup
	for i := 1; i < n; i++ {
		wg.Go(func() { made[i], errs[i] = v.setup(ctx, pod, &pod.Spec.Volumes[use[i]]) })
	}
	made[0], errs[0] = v.setup(ctx, pod, &pod.Spec.Volumes[use[0]])
	wg.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.pods[pod.UID]
	if p == nil {
		p = &podVolumes{mounted: make(map[string]Mounted, n)}
		v.pods[pod.UID] = p
	}
	for i := range made {
		if errs[i] == nil {
			p.mounted[pod.Spec.Volumes[use[i]].Name] = made[i]
		}
	}
	return errors.Join(errs...)
}

func (v *Volumes) setup(ctx context.Context, pod *v1.Pod, vol *v1.Volume) (Mounted, error) {
	r := &Request{Pod: pod, Volume: vol}
	driver, err := v.resolve(ctx, r)
	if err != nil {
		return Mounted{}, err
	}
	m, err := driver.Setup(ctx, r)
	if err != nil {
		return Mounted{}, r.failed(err)
	}
	_, m.refresh = driver.(Refresher)
	m.ReadOnly = m.ReadOnly || r.ReadOnly
	return m, nil
}

// Mounted is what Setup made of a pod's volume in this daemon's life.
func (v *Volumes) Mounted(podUID types.UID, volume string) (Mounted, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.pods[podUID]
	if p == nil {
		return Mounted{}, false
	}
	m, ok := p.mounted[volume]
	return m, ok
}

// Refresh brings the pod's volumes up to what their objects say now. Errors
// are as Setup's; volumes that failed are to be tried again by the caller.
func (v *Volumes) Refresh(ctx context.Context, pod *v1.Pod) error {
	v.mu.Lock()
	p := v.pods[pod.UID]
	v.mu.Unlock()
	if p == nil {
		return nil
	}
	var errs []error
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		m, ok := v.Mounted(pod.UID, vol.Name)
		if !ok || !m.refresh {
			continue
		}
		next, err := v.refresh(ctx, &Request{Pod: pod, Volume: vol, write: p.write})
		switch {
		case errors.Is(err, errGone):
			return nil
		case err != nil:
			errs = append(errs, err)
			continue
		}
		m.RefreshAt = next
		v.mu.Lock()
		p.mounted[vol.Name] = m
		v.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (v *Volumes) refresh(ctx context.Context, r *Request) (time.Time, error) {
	driver, err := v.resolve(ctx, r)
	if err != nil {
		return time.Time{}, err
	}
	next, err := driver.(Refresher).Refresh(ctx, r)
	if err != nil {
		return time.Time{}, r.failed(err)
	}
	return next, nil
}

// RefreshAt is when the first of the pod's volumes is to be renewed; zero
// when none is.
func (v *Volumes) RefreshAt(podUID types.UID) time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	var first time.Time
	p := v.pods[podUID]
	if p == nil {
		return first
	}
	for _, m := range p.mounted {
		if at := m.RefreshAt; !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// dirOf is where a volume of a kind may be made. All that has secrets in it is
// below the tmpfs.
func (v *Volumes) dirOf(r *Request, kind Kind) string {
	if kind == KindSecret || hasSecrets(r.Volume.Projected) {
		return filepath.Join(v.secrets, string(r.Pod.UID), r.Volume.Name)
	}
	return filepath.Join(v.dir, string(r.Pod.UID), volumesDir, string(kind), r.Volume.Name)
}

// volumesDir is the name of the directory of a pod's volumes.
const volumesDir = "volumes"
