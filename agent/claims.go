package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"

	"shoal/agent/volume"
)

// Claim reads a claim and the persistent volume it is bound to. What is wrong
// with them is said in the kubelet's words.
func (s *source) Claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error) {
	claim, err := whenRelated(ctx, func() (*v1.PersistentVolumeClaim, error) {
		return s.kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	case claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, volumeutil.PVCProtectionFinalizer):
		return nil, nil, errors.New("PVC is being deleted")
	case claim.Status.Phase != v1.ClaimBound:
		return nil, nil, volume.ErrNotBound
	case claim.Spec.VolumeName == "":
		return nil, nil, errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	pv, err := whenRelated(ctx, func() (*v1.PersistentVolume, error) {
		return s.kube.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	case pv.Spec.ClaimRef == nil:
		return nil, nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name)
	case pv.Spec.ClaimRef.UID != claim.UID:
		return nil, nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", pv.Name, pv.Spec.ClaimRef.UID, claim.UID)
	}
	return claim, pv, nil
}

// nodeLabels are this host's Node's, as the API server has them now.
func (a *Agent) nodeLabels(ctx context.Context) (map[string]string, error) {
	node, err := a.kube.CoreV1().Nodes().Get(ctx, a.o.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read this host's node %s: %w", a.o.NodeName, err)
	}
	return node.Labels, nil
}

// VolumeInUse reports whether a pod of this host has the local volume at path.
func (a *Agent) VolumeInUse(path string) (bool, error) { return a.volumes.InUse(path) }
