package volume

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind names what a volume is made by. It is also the name of the directory
// below a pod's volumes/ that its volumes of that kind are in, so that a later
// daemon knows what to take down when nothing but the disk remembers.
type Kind string

// The kinds there are, by the names the kubelet's directories have.
const (
	KindEmptyDir  Kind = "kubernetes.io~empty-dir"
	KindHostPath  Kind = "kubernetes.io~host-path"
	KindConfigMap Kind = "kubernetes.io~configmap"
	KindSecret    Kind = "kubernetes.io~secret"
	KindDownward  Kind = "kubernetes.io~downward-api"
	KindProjected Kind = "kubernetes.io~projected"
	KindImage     Kind = "kubernetes.io~image"
	KindLocal     Kind = "kubernetes.io~local-volume"
	KindCSI       Kind = "kubernetes.io~csi"
)

// Driver makes the volumes of one kind. Both methods may be repeated with the
// same effect, also by a later daemon: Setup is called once in each daemon's
// life for every pod that runs, before any of its containers starts.
type Driver interface {
	// Setup makes the volume and says what containers get of it. Its error is
	// shown to the user behind `MountVolume.SetUp failed for volume "x" : `.
	Setup(ctx context.Context, r *Request) (Mounted, error)
	// Teardown takes down what Setup made at dir, of which the pod may be
	// unknown by now. Mounts at and below dir, and dir itself, are removed by
	// the caller afterwards; a volume that made no dir is not told.
	Teardown(ctx context.Context, podUID, name, dir string) error
}

// Refresher is a Driver whose volumes' content changes while they are used.
type Refresher interface {
	// Refresh brings the content up to date and says when it is to be asked
	// again if nothing is heard before; zero means never.
	Refresh(ctx context.Context, r *Request) (time.Time, error)
}

// Request is one volume of one pod.
type Request struct {
	Pod    *v1.Pod
	Volume *v1.Volume // in the pod's specification
	// Claim and PV are what a persistentVolumeClaim or ephemeral volume is
	// bound to; nil for all others.
	Claim *v1.PersistentVolumeClaim
	PV    *v1.PersistentVolume
	// ReadOnly is set when the volume, its claim or its source says so.
	ReadOnly bool
	// Dir is where the volume may be made, below the pod's own directory. It
	// is not there yet, and nobody makes it but the driver.
	Dir string

	// write runs what a renewal writes, if the pod still has its volumes; nil
	// means that nothing else can happen meanwhile.
	write func(func() error) error
}

// Block reports whether containers get a device instead of a directory.
func (r *Request) Block() bool {
	return r.PV != nil && r.PV.Spec.VolumeMode != nil && *r.PV.Spec.VolumeMode == v1.PersistentVolumeBlock
}

// failed is what the user reads about a volume that could not be made.
func (r *Request) failed(err error) error {
	name := r.Volume.Name
	if r.PV != nil {
		name = r.PV.Name
	}
	return &MountError{Volume: r.Volume.Name, Spec: name, Err: err}
}

// Mounted is a volume that containers can have.
type Mounted struct {
	// Path is the host's path of the directory or file that is bind-mounted
	// into containers, or of the device if Block is set.
	Path  string
	Block bool
	// ReadOnly volumes are read-only in every container.
	ReadOnly bool
	// RefreshAt is when Refresh is due; zero means never.
	RefreshAt time.Time

	refresh bool // the driver is a Refresher
}

// Register has a driver make the volumes of a kind. All are registered before
// the first Setup.
func (v *Volumes) Register(kind Kind, d Driver) { v.drivers[kind] = d }

// kindOf is the kind of a volume that is not claimed, "" if there is none.
func kindOf(vol *v1.Volume) Kind {
	switch {
	case vol.EmptyDir != nil:
		return KindEmptyDir
	case vol.HostPath != nil:
		return KindHostPath
	case vol.ConfigMap != nil:
		return KindConfigMap
	case vol.Secret != nil:
		return KindSecret
	case vol.DownwardAPI != nil:
		return KindDownward
	case vol.Projected != nil:
		return KindProjected
	case vol.Image != nil:
		return KindImage
	case vol.CSI != nil:
		return KindCSI
	}
	return ""
}

// kindOfPV is the kind of a persistent volume, "" if there is none.
func kindOfPV(pv *v1.PersistentVolume) Kind {
	switch {
	case pv.Spec.Local != nil:
		return KindLocal
	case pv.Spec.HostPath != nil:
		return KindHostPath
	case pv.Spec.CSI != nil:
		return KindCSI
	}
	return ""
}
