package localvolume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/reference"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"shoal/api/storageclass"
)

// syncClaim makes the volume of a claim that is to have it here.
func (p *Provisioner) syncClaim(ctx context.Context, k key) error {
	claim, err := p.claims.PersistentVolumeClaims(k.namespace).Get(k.claim)
	if apierrors.IsNotFound(err) || err == nil && volumeName(claim) != k.volume {
		return nil
	}
	if err != nil {
		return err
	}
	if claim.Spec.VolumeName != "" {
		return p.expand(ctx, claim)
	}
	class, err := p.classes.Get(storagehelpers.GetPersistentVolumeClaimClass(claim))
	if err != nil || class.Provisioner != storageclass.Provisioner || claim.DeletionTimestamp != nil {
		return nil // not ours; a class that comes later brings the claim back
	}
	switch claim.Annotations[storagehelpers.AnnSelectedNode] {
	case p.o.NodeName:
		return p.provision(ctx, claim, class)
	case "":
		p.refuseImmediate(claim, class)
		return nil
	}
	return p.reselect(ctx, claim)
}

// refuse names what of a claim or class a local volume cannot honour.
func refuse(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	switch {
	case claim.Spec.Selector != nil:
		return errors.New("claim Selector is not supported")
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return errors.New("a data source is not supported: a local volume begins empty")
	case claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == v1.PersistentVolumeBlock:
		return errors.New("volumeMode Block is not supported: local volumes are directories; make a PersistentVolume with local.path of a block device instead")
	case claim.Spec.VolumeAttributesClassName != nil && *claim.Spec.VolumeAttributesClassName != "":
		return errors.New("volumeAttributesClassName is not supported")
	}
	for name := range class.Parameters {
		return fmt.Errorf("parameter %q is not known; local volumes have none", name)
	}
	return nil
}

func (p *Provisioner) provision(ctx context.Context, claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	name := volumeName(claim)
	if made, err := p.madeAlready(ctx, name); made || err != nil {
		return err // the binder does the rest
	}
	if err := refuse(claim, class); err != nil {
		p.failed(claim, class, err)
		return nil // a change of the claim or the class brings it back
	}
	p.events.Eventf(claim, v1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", claim.Namespace+"/"+claim.Name)
	asked := claim.Spec.Resources.Requests[v1.ResourceStorage]
	source, err := p.backend.Provision(ctx, name, asked.Value())
	if err != nil {
		p.failed(claim, class, err)
		if full := (*NoRoomError)(nil); errors.As(err, &full) {
			return p.giveBack(ctx, claim)
		}
		return err
	}
	pv, err := p.object(claim, class, source)
	if err != nil {
		return err
	}
	_, err = p.o.Client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return p.madeBefore(ctx, claim, name)
	}
	if err != nil {
		err = fmt.Errorf("save persistentvolume %s: %w", name, err)
		p.failed(claim, class, err)
		return err
	}
	p.events.Eventf(claim, v1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
	p.room.look()
	return nil
}

// madeAlready reports whether the volume is there. The informer alone may be
// behind what this host has just made, and would have it tell of that twice.
func (p *Provisioner) madeAlready(ctx context.Context, name string) (bool, error) {
	if _, err := p.volumes.Get(name); err == nil {
		return true, nil
	}
	pv, err := p.o.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && p.mine(pv), err
}

func (p *Provisioner) failed(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass, err error) {
	p.events.Eventf(claim, v1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v", class.Name, err)
}

// object is the volume as the API has it.
func (p *Provisioner) object(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass, source v1.PersistentVolumeSource) (*v1.PersistentVolume, error) {
	ref, err := reference.GetReference(scheme.Scheme, claim)
	if err != nil {
		return nil, err
	}
	node, err := p.nodes.Get(p.o.NodeName)
	if err != nil {
		return nil, fmt.Errorf("read this host's node: %w", err)
	}
	host := node.Labels[v1.LabelHostname]
	if host == "" {
		return nil, fmt.Errorf("node %s has no label %s, by which pods find their volume; set it again", node.Name, v1.LabelHostname)
	}
	asked := claim.Spec.Resources.Requests[v1.ResourceStorage]
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        volumeName(claim),
			Annotations: map[string]string{storagehelpers.AnnDynamicallyProvisioned: storageclass.Provisioner},
		},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeSource:        source,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: asked},
			AccessModes:                   claim.Spec.AccessModes,
			ClaimRef:                      ref,
			StorageClassName:              class.Name,
			MountOptions:                  class.MountOptions,
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			VolumeMode:                    claim.Spec.VolumeMode,
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}
	if class.ReclaimPolicy != nil {
		pv.Spec.PersistentVolumeReclaimPolicy = *class.ReclaimPolicy
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete {
		pv.Finalizers = []string{storagehelpers.PVDeletionProtectionFinalizer}
	}
	return pv, nil
}

// madeBefore takes the directory away again when the volume is on another host.
func (p *Provisioner) madeBefore(ctx context.Context, claim *v1.PersistentVolumeClaim, name string) error {
	pv, err := p.o.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if p.mine(pv) {
		p.events.Eventf(claim, v1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
		return nil
	}
	return p.elsewhere(ctx, pv)
}

// giveBack has the scheduler choose another host. What it knows of the room
// here is brought up to date first.
func (p *Provisioner) giveBack(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	if err := p.room.publish(ctx, true); err != nil {
		return err
	}
	return p.patchClaim(ctx, claim, map[string]any{
		"metadata": map[string]any{
			"uid": claim.UID, "resourceVersion": claim.ResourceVersion,
			"annotations": map[string]any{storagehelpers.AnnSelectedNode: nil},
		},
	}, "")
}

func (p *Provisioner) patchClaim(ctx context.Context, claim *v1.PersistentVolumeClaim, change map[string]any, subresource string) error {
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	var below []string
	if subresource != "" {
		below = []string{subresource}
	}
	_, err = p.o.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{}, below...)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // its new state brings it back
	}
	return err
}

// reselect frees a claim from a host that is gone for good. One host does it.
func (p *Provisioner) reselect(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	selected := claim.Annotations[storagehelpers.AnnSelectedNode]
	if _, err := p.nodes.Get(selected); !apierrors.IsNotFound(err) || !p.speaks(volumeName(claim)) {
		return nil
	}
	p.events.Eventf(claim, v1.EventTypeWarning, "ProvisioningFailed", "node %q, where the volume was to be made, is gone; another is chosen", selected)
	return p.giveBack(ctx, claim)
}

// refuseImmediate says why a claim of a class without WaitForFirstConsumer gets
// no volume. One host does it.
func (p *Provisioner) refuseImmediate(claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) {
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if waits || !p.speaks(volumeName(claim)) {
		return
	}
	p.failed(claim, class, errors.New("a local volume is made on the host of its first pod, so the class must have volumeBindingMode: WaitForFirstConsumer"))
}
