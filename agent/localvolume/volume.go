package localvolume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"shoal/api/storageclass"
	"shoal/gossip/rendezvous"
)

// orphanAge is how old an empty directory that no volume names must be before
// it is taken away: younger ones may be of a claim whose volume is being made.
const orphanAge = time.Hour

// errInUse has a deletion tried again later.
var errInUse = errors.New("volume is still used by a pod on this host")

// mine reports whether a volume is one that this host made and has: by who
// provisioned it, by where it is, and by the host it names.
func (p *Provisioner) mine(pv *v1.PersistentVolume) bool {
	if pv.Annotations[storagehelpers.AnnDynamicallyProvisioned] != storageclass.Provisioner ||
		pv.Spec.Local == nil || pv.Spec.Local.Path != p.backend.Path(pv.Name) {
		return false
	}
	node, err := p.nodes.Get(p.o.NodeName)
	return err == nil && slices.Contains(hostsOf(pv), node.Labels[v1.LabelHostname])
}

// hostsOf are the host names a volume of ours is limited to.
func hostsOf(pv *v1.PersistentVolume) []string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	var hosts []string
	for _, term := range pv.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			if e.Key == v1.LabelHostname && e.Operator == v1.NodeSelectorOpIn {
				hosts = append(hosts, e.Values...)
			}
		}
	}
	return hosts
}

// syncVolume deletes a volume of this host whose time has come.
func (p *Provisioner) syncVolume(ctx context.Context, name string) error {
	pv, err := p.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !p.mine(pv) {
		return p.elsewhere(ctx, pv)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		return p.finalizer(ctx, pv, false) // its data stays, whatever becomes of the object
	}
	if !reclaimable(pv) {
		if pv.DeletionTimestamp == nil {
			return p.finalizer(ctx, pv, true)
		}
		return nil
	}
	return p.delete(ctx, pv)
}

// reclaimable: nobody has a claim to the volume any more.
func reclaimable(pv *v1.PersistentVolume) bool {
	if pv.DeletionTimestamp != nil { // a bound one is held by another finalizer
		return pv.Status.Phase != v1.VolumeBound
	}
	return pv.Status.Phase == v1.VolumeReleased
}

// delete takes the data away and then the object. What the informers say may
// be old, so the API is asked once more.
func (p *Provisioner) delete(ctx context.Context, pv *v1.PersistentVolume) error {
	now, err := p.o.Client.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.UID != pv.UID || !p.mine(now) || !reclaimable(now) || now.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete {
		return nil
	}
	if claimed, err := p.claimed(ctx, now); err != nil || claimed {
		return err
	}
	if err := p.deleteData(ctx, now); err != nil {
		p.events.Event(now, v1.EventTypeWarning, "VolumeFailedDelete", err.Error())
		return err
	}
	if err := p.deleteObject(ctx, now); err != nil {
		return err
	}
	p.room.look()
	p.purge(ctx)
	return nil
}

func (p *Provisioner) claimed(ctx context.Context, pv *v1.PersistentVolume) (bool, error) {
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return false, nil
	}
	claim, err := p.o.Client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("see whether volume %s is claimed: %w", pv.Name, err)
	}
	return claim.UID == ref.UID && (claim.Spec.VolumeName == "" || claim.Spec.VolumeName == pv.Name), nil
}

func (p *Provisioner) deleteData(ctx context.Context, pv *v1.PersistentVolume) error {
	used, err := p.o.InUse(pv.Spec.Local.Path)
	if err != nil {
		return err
	}
	if used {
		return errInUse
	}
	return p.backend.Delete(ctx, pv.Name)
}

func (p *Provisioner) deleteObject(ctx context.Context, pv *v1.PersistentVolume) error {
	volumes := p.o.Client.CoreV1().PersistentVolumes()
	err := volumes.Delete(ctx, pv.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pv.UID}})
	if err == nil {
		pv, err = volumes.Get(ctx, pv.Name, metav1.GetOptions{})
	}
	if err == nil {
		err = p.finalizer(ctx, pv, false)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete persistentvolume %s, whose data is deleted: %w", pv.Name, err)
	}
	return nil
}

// finalizer puts the mark on a volume that holds its object until its data is
// deleted, or takes it off.
func (p *Provisioner) finalizer(ctx context.Context, pv *v1.PersistentVolume, wanted bool) error {
	const mark = storagehelpers.PVDeletionProtectionFinalizer
	if slices.Contains(pv.Finalizers, mark) == wanted {
		return nil
	}
	rest := slices.DeleteFunc(slices.Clone(pv.Finalizers), func(f string) bool { return f == mark })
	if wanted {
		rest = append(rest, mark)
	}
	err := p.patchVolume(ctx, pv, map[string]any{"metadata": map[string]any{"finalizers": rest}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// elsewhere is for a volume that this host does not have. A directory of its
// name is what is left when two hosts were chosen during a split. The object of
// a volume whose host is gone for good goes when somebody deletes it: nobody is
// left to delete the data. One host does that.
func (p *Provisioner) elsewhere(ctx context.Context, pv *v1.PersistentVolume) error {
	other, err := p.hasHost(pv, func(node *v1.Node) bool { return node.Name != p.o.NodeName })
	if err != nil {
		return err
	}
	if other {
		p.drop(pv.Name, pv)
		return nil
	}
	if pv.DeletionTimestamp == nil || pv.Status.Phase == v1.VolumeBound || !p.speaks(pv.Name) {
		return nil
	}
	if there, err := p.hasHost(pv, func(*v1.Node) bool { return true }); err != nil || there {
		return err
	}
	return p.finalizer(ctx, pv, false)
}

// hasHost reports whether a node like that is one the volume is limited to.
func (p *Provisioner) hasHost(pv *v1.PersistentVolume, like func(*v1.Node) bool) (bool, error) {
	nodes, err := p.nodes.List(labels.Everything())
	if err != nil {
		return false, err
	}
	hosts := hostsOf(pv)
	return slices.ContainsFunc(nodes, func(node *v1.Node) bool {
		return slices.Contains(hosts, node.Labels[v1.LabelHostname]) && like(node)
	}), nil
}

// drop takes away a directory whose volume is on another host, unless it has
// anything in it, which is told.
func (p *Provisioner) drop(name string, pv *v1.PersistentVolume) {
	kept, err := p.backend.Drop(name)
	switch {
	case err != nil:
		p.log.Warn("a directory that no volume names could not be taken away", "path", p.backend.Path(name), "error", err)
	case kept:
		p.log.Warn("a directory has files and its volume is on another host: look whether they are wanted, then remove it", "path", p.backend.Path(name), "volume", name)
		if pv != nil {
			p.events.Eventf(pv, v1.EventTypeWarning, "VolumeDataLeft", "node %s has files at %s of a volume that is on another host: it was made twice during a split; look whether they are wanted, then remove them", p.o.NodeName, p.backend.Path(name))
		}
	}
}

// collect looks, once in a daemon's life, at directories that no volume names.
func (p *Provisioner) collect() {
	names, err := p.backend.Names()
	if err != nil {
		p.log.Warn("directories that no volume names are not looked for", "error", err)
		return
	}
	for _, name := range names {
		if _, err := p.volumes.Get(name); !apierrors.IsNotFound(err) {
			continue // syncVolume looks at it
		}
		info, err := os.Lstat(p.backend.Path(name))
		if err == nil && time.Since(info.ModTime()) > orphanAge {
			p.drop(name, nil)
		}
	}
}

// speaks: this host does what one host must, for a volume. The others agree as
// far as they see the same nodes.
func (p *Provisioner) speaks(volume string) bool {
	nodes, err := p.nodes.List(labels.Everything())
	if err != nil {
		return false
	}
	var ready []string
	for _, node := range nodes {
		for _, c := range node.Status.Conditions {
			if c.Type == v1.NodeReady && c.Status == v1.ConditionTrue {
				ready = append(ready, node.Name)
			}
		}
	}
	return rendezvous.First(volume, ready) == p.o.NodeName
}
