package sched

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"

	"shoal/api/storageclass"
	"shoal/sched/placement"
)

// bindTimeout is how long a pod holds its place for volumes; upstream's default.
const bindTimeout = 10 * time.Minute

// held is a pod that has a node and waits for its volumes. There is no
// goroutine for it: claims that change have it looked at again.
type held struct {
	decision
	wrote bool // the API server has taken the bindings
	until time.Time
}

// settle writes a decision: the volumes first, then the pod.
func (s *Scheduler) settle(ctx context.Context, d decision) {
	if len(d.volumes) == 0 {
		s.bind(ctx, d)
		return
	}
	s.mu.Lock()
	h := &held{decision: d, until: s.clock.Now().Add(bindTimeout)}
	s.holding[d.pod.UID] = h
	s.mu.Unlock()
	err := s.writeVolumes(ctx, d)
	if err != nil && ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holding[d.pod.UID] != h {
		return // gone meanwhile
	}
	if err != nil {
		s.restoreVolumes(d)
		s.takeBack(d, err)
		return
	}
	h.wrote = true
	s.clock.AfterFunc(bindTimeout, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lookAgain(d.pod.UID)
	})
	s.lookAgain(d.pod.UID)
}

// writeVolumes gives volumes to claims and asks for those that are to be made.
// Each write is refused if its object has changed since the decision.
func (s *Scheduler) writeVolumes(ctx context.Context, d decision) error {
	for _, b := range d.volumes {
		if b.Volume != nil {
			pv, changed, err := volume.GetBindVolumeToClaim(b.Volume, b.Claim)
			if err == nil && changed {
				_, err = s.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
			}
			if err != nil {
				return fmt.Errorf("give volume %s to claim %s/%s: %w", b.Volume.Name, b.Claim.Namespace, b.Claim.Name, err)
			}
			continue
		}
		if b.Claim.Annotations[volume.AnnSelectedNode] == d.node {
			continue
		}
		claim := b.Claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, d.node)
		if _, err := s.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("select node %s for claim %s/%s: %w", d.node, claim.Namespace, claim.Name, err)
		}
	}
	return nil
}

// restoreVolumes has the snapshot forget what was assumed and not written.
func (s *Scheduler) restoreVolumes(d decision) {
	core := s.informers.Core().V1()
	for _, b := range d.volumes {
		if b.Volume == nil {
			if now, err := core.PersistentVolumeClaims().Lister().PersistentVolumeClaims(b.Claim.Namespace).Get(b.Claim.Name); err == nil {
				s.snapshot.SetClaim(now)
			}
			continue
		}
		if now, err := core.PersistentVolumes().Lister().Get(b.Volume.Name); err == nil {
			s.snapshot.SetVolume(now)
		}
	}
	s.queue.changed(placement.VolumeChange)
}

// lookAgain binds a held pod whose claims have their volumes, and gives up one
// that cannot get them here.
func (s *Scheduler) lookAgain(uid types.UID) {
	h := s.holding[uid]
	if h == nil || !h.wrote {
		return
	}
	bound, err := s.volumesBound(h)
	switch {
	case err != nil:
		s.takeBack(h.decision, err)
	case bound:
		delete(s.holding, uid)
		d := h.decision
		d.volumes = nil
		s.bindable = append(s.bindable, d)
		s.wake()
	case !s.clock.Now().Before(h.until):
		s.takeBack(h.decision, errors.New("binding volumes: timed out waiting for the condition"))
	}
}

// volumesBound follows upstream's checkBindings.
func (s *Scheduler) volumesBound(h *held) (bool, error) {
	for _, b := range h.volumes {
		claim := s.snapshot.Claim(b.Claim.Namespace, b.Claim.Name)
		if claim == nil || claim.UID != b.Claim.UID {
			return false, fmt.Errorf("claim %s is gone", b.Claim.Name)
		}
		if b.Volume == nil && claim.Annotations[volume.AnnSelectedNode] != h.node {
			return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
		}
		if !placement.Bound(claim) {
			return false, nil
		}
		fits, known := s.snapshot.VolumeFits(claim.Spec.VolumeName, h.node)
		if !known {
			return false, nil // not seen yet
		}
		if !fits {
			return false, fmt.Errorf("pv %q node affinity doesn't match node %q", claim.Spec.VolumeName, h.node)
		}
	}
	return true, nil
}

// watchVolumes keeps the snapshot's claims, volumes, classes and room.
func (s *Scheduler) watchVolumes() {
	s.snapshot.CountRoom(storageclass.Provisioner, false)
	core, storage := s.informers.Core().V1(), s.informers.Storage().V1()
	on(s, core.PersistentVolumeClaims().Informer(), s.setClaim, func(c *v1.PersistentVolumeClaim) {
		s.snapshot.RemoveClaim(c.Namespace, c.Name)
		s.lookAtHeld(c.Namespace)
	})
	on(s, core.PersistentVolumes().Informer(), s.setVolume, func(pv *v1.PersistentVolume) { s.snapshot.RemoveVolume(pv.Name) })
	on(s, storage.StorageClasses().Informer(), s.setClass, func(c *storagev1.StorageClass) { s.snapshot.RemoveClass(c.Name) })
	on(s, storage.CSIStorageCapacities().Informer(), s.setCapacity, func(c *storagev1.CSIStorageCapacity) {
		s.snapshot.RemoveCapacity(c.Namespace, c.Name)
		s.queue.changed(placement.VolumeChange)
	})
	on(s, storage.CSIDrivers().Informer(), s.setDriver, func(*storagev1.CSIDriver) {})
}

func (s *Scheduler) setClaim(_, now *v1.PersistentVolumeClaim) {
	s.snapshot.SetClaim(now)
	s.queue.changed(placement.VolumeChange)
	s.lookAtHeld(now.Namespace)
}

func (s *Scheduler) setVolume(before, now *v1.PersistentVolume) {
	s.snapshot.SetVolume(now)
	s.queue.changed(placement.VolumeChange)
	if before == nil && now.Spec.ClaimRef != nil { // a claim may have been seen bound to it already
		s.lookAtHeld(now.Spec.ClaimRef.Namespace)
	}
}

// lookAtHeld looks at the held pods of a namespace; there are few.
func (s *Scheduler) lookAtHeld(namespace string) {
	for uid, h := range s.holding {
		if h.pod.Namespace == namespace {
			s.lookAgain(uid)
		}
	}
}

func (s *Scheduler) setClass(_, now *storagev1.StorageClass) {
	s.snapshot.SetClass(now)
	s.queue.changed(placement.VolumeChange)
}

func (s *Scheduler) setCapacity(before, now *storagev1.CSIStorageCapacity) {
	if before != nil && apiequality.Semantic.DeepEqual(before.Capacity, now.Capacity) &&
		apiequality.Semantic.DeepEqual(before.MaximumVolumeSize, now.MaximumVolumeSize) {
		return
	}
	s.snapshot.SetCapacity(now)
	s.queue.changed(placement.VolumeChange)
}

// setDriver counts the room of drivers that publish it.
func (s *Scheduler) setDriver(_, now *storagev1.CSIDriver) {
	if now.Spec.StorageCapacity != nil && *now.Spec.StorageCapacity {
		const strict = true
		s.snapshot.CountRoom(now.Name, strict)
		s.queue.changed(placement.VolumeChange)
	}
}
