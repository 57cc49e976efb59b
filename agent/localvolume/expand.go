package localvolume

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// grows reports whether a bound claim asks for more than it was given.
func grows(claim *v1.PersistentVolumeClaim) bool {
	asked, has := claim.Spec.Resources.Requests[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	return claim.Status.Phase == v1.ClaimBound && asked.Cmp(has) > 0
}

// expand gives a bound claim the size it asks for. Whether its class allows
// that was the API server's to say.
func (p *Provisioner) expand(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	if !grows(claim) {
		return nil
	}
	pv, err := p.volumes.Get(claim.Spec.VolumeName)
	if err != nil || !p.mine(pv) || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return nil
	}
	asked, has := claim.Spec.Resources.Requests[v1.ResourceStorage], pv.Spec.Capacity[v1.ResourceStorage]
	if asked.Cmp(has) > 0 {
		p.events.Eventf(claim, v1.EventTypeNormal, "Resizing", "External resizer is resizing volume %s", pv.Name)
		if err := p.backend.Expand(ctx, pv.Name, has.Value(), asked.Value()); err != nil {
			p.events.Eventf(claim, v1.EventTypeWarning, "VolumeResizeFailed", "resize volume %q failed: %v", pv.Name, err)
			return err
		}
		if err := p.patchVolume(ctx, pv, map[string]any{"spec": map[string]any{"capacity": map[string]any{"storage": asked}}}); err != nil {
			return fmt.Errorf("write the new size of volume %s: %w", pv.Name, err)
		}
		has = asked
		p.room.look()
	}
	if err := p.patchClaim(ctx, claim, map[string]any{
		"metadata": map[string]any{"uid": claim.UID},
		"status":   map[string]any{"capacity": map[string]any{"storage": has}},
	}, "status"); err != nil {
		return fmt.Errorf("write the new size of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	p.events.Event(claim, v1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	return nil
}

// patchVolume changes a volume that is still the one looked at.
func (p *Provisioner) patchVolume(ctx context.Context, pv *v1.PersistentVolume, change map[string]any) error {
	change["metadata"] = merged(change["metadata"], map[string]any{"uid": pv.UID, "resourceVersion": pv.ResourceVersion})
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = p.o.Client.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func merged(into any, more map[string]any) map[string]any {
	if into, ok := into.(map[string]any); ok {
		for k, v := range into {
			more[k] = v
		}
	}
	return more
}
