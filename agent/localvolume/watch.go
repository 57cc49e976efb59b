package localvolume

import (
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"shoal/api/storageclass"
)

// watch queues what may concern this host.
func (p *Provisioner) watch() []error {
	core := p.o.Informers.Core().V1()
	var errs []error
	on := func(informer cache.SharedIndexInformer, handler cache.ResourceEventHandlerFuncs) {
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			errs = append(errs, err)
			return
		}
		p.synced = append(p.synced, registration.HasSynced)
		p.unwatch = append(p.unwatch, func() { _ = informer.RemoveEventHandler(registration) })
	}
	on(core.PersistentVolumeClaims().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: p.sawClaim, UpdateFunc: func(_, now any) { p.sawClaim(now) },
	})
	on(core.PersistentVolumes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: p.sawVolume, UpdateFunc: func(_, now any) { p.sawVolume(now) }, DeleteFunc: func(any) { p.room.look() },
	})
	on(p.o.Informers.Storage().V1().StorageClasses().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: p.sawClass, UpdateFunc: func(_, now any) { p.sawClass(now) }, DeleteFunc: func(any) { p.room.look() },
	})
	on(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if node, ok := object.(*v1.Node); ok && node.Name == p.o.NodeName {
				p.room.look()
				p.lookAtAll() // until now nothing was known to be here
			}
		},
		// A host that is gone leaves claims and volumes that name it.
		DeleteFunc: func(any) { p.lookAtAll() },
	})
	return errs
}

func (p *Provisioner) sawClaim(object any) {
	claim, ok := object.(*v1.PersistentVolumeClaim)
	if !ok || claim.DeletionTimestamp != nil {
		return
	}
	if claim.Spec.VolumeName == "" || grows(claim) {
		p.queue.Add(keyOf(claim))
	}
}

func (p *Provisioner) sawVolume(object any) {
	pv, ok := object.(*v1.PersistentVolume)
	if ok && pv.Annotations[storagehelpers.AnnDynamicallyProvisioned] == storageclass.Provisioner {
		p.queue.Add(key{volume: pv.Name})
	}
}

// sawClass looks at the claims that waited for the class.
func (p *Provisioner) sawClass(object any) {
	class, ok := object.(*storagev1.StorageClass)
	if !ok || class.Provisioner != storageclass.Provisioner {
		return
	}
	p.room.look()
	claims, _ := p.claims.List(labels.Everything()) // a lister reads memory
	for _, claim := range claims {
		if storagehelpers.GetPersistentVolumeClaimClass(claim) == class.Name {
			p.sawClaim(claim)
		}
	}
}

func (p *Provisioner) lookAtAll() {
	claims, _ := p.claims.List(labels.Everything())
	for _, claim := range claims {
		p.sawClaim(claim)
	}
	volumes, _ := p.volumes.List(labels.Everything())
	for _, pv := range volumes {
		p.sawVolume(pv)
	}
}

func keyOf(claim *v1.PersistentVolumeClaim) key {
	return key{volumeName(claim), claim.Namespace, claim.Name}
}

// volumeName is the name every provisioner gives to a claim's volume.
func volumeName(claim *v1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }
