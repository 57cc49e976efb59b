package volume

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// claimOf is the name of the claim that stands behind a volume; "" for one
// that is not claimed.
func claimOf(pod *v1.Pod, vol *v1.Volume) string {
	switch {
	case vol.PersistentVolumeClaim != nil:
		return vol.PersistentVolumeClaim.ClaimName
	case vol.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, vol)
	}
	return ""
}

// resolve finds the claim and the persistent volume behind a volume, and the
// driver that makes it.
func (v *Volumes) resolve(ctx context.Context, r *Request) (Driver, error) {
	name := claimOf(r.Pod, r.Volume)
	kind := kindOf(r.Volume)
	if name != "" {
		if err := v.bound(ctx, r, name); err != nil {
			return nil, &MountError{Volume: r.Volume.Name, Spec: r.Volume.Name, Err: err, claim: true}
		}
		kind = kindOfPV(r.PV)
	}
	d := v.drivers[kind]
	if d == nil && name != "" {
		return nil, r.failed(fmt.Errorf("persistent volume %s: its source is %w here; use local or hostPath", r.PV.Name, ErrUnsupported))
	}
	if d == nil {
		return nil, r.failed(ErrUnsupported)
	}
	r.Dir = v.dirOf(r, kind)
	return d, nil
}

func (v *Volumes) bound(ctx context.Context, r *Request, name string) error {
	claim, pv, err := v.source.Claim(ctx, r.Pod.Namespace, name)
	if err != nil {
		return fmt.Errorf("error processing PVC %s/%s: %w", r.Pod.Namespace, name, err)
	}
	if r.Volume.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(r.Pod, claim); err != nil {
			return err
		}
	}
	r.Claim, r.PV = claim, pv
	if err := checkMode(r); err != nil {
		return err
	}
	if p := r.Volume.PersistentVolumeClaim; p != nil && p.ReadOnly {
		r.ReadOnly = true
	}
	return nil
}

// checkMode refuses a directory used as a device, and the other way round.
func checkMode(r *Request) error {
	mode := v1.PersistentVolumeFilesystem
	if r.Block() {
		mode = v1.PersistentVolumeBlock
	}
	name := r.Volume.Name
	for _, c := range slices.Concat(r.Pod.Spec.InitContainers, r.Pod.Spec.Containers) {
		mounted := slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == name })
		used := slices.ContainsFunc(c.VolumeDevices, func(d v1.VolumeDevice) bool { return d.Name == name })
		switch {
		case mounted && mode != v1.PersistentVolumeFilesystem:
			return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", name, mode)
		case used && mode != v1.PersistentVolumeBlock:
			return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", name, mode)
		}
	}
	return nil
}
