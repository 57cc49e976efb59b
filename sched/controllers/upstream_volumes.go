package controllers

import (
	"context"
	"fmt"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/volume/ephemeral"
	"k8s.io/kubernetes/pkg/controller/volume/persistentvolume"
	"k8s.io/kubernetes/pkg/controller/volume/pvcprotection"
	"k8s.io/kubernetes/pkg/controller/volume/pvprotection"
)

// bindingResync is upstream's default for how often the binder looks at all
// claims and volumes again. It reads its own memory; of claims that wait it
// tells users what for.
const bindingResync = 15 * time.Second

// buildVolumeBinder binds claims to volumes. It has no plug-ins: volumes are
// made and deleted by whoever the class names, here the hosts
// (agent/localvolume). So a static volume with the policy Delete or Recycle
// becomes Failed when it is released, with upstream's message, and keeps its
// data.
func buildVolumeBinder(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c, err := persistentvolume.NewController(ctx, persistentvolume.ControllerParameters{
		KubeClient:                p.client,
		SyncPeriod:                bindingResync,
		VolumeInformer:            core.PersistentVolumes(),
		ClaimInformer:             core.PersistentVolumeClaims(),
		ClassInformer:             p.informers.Storage().V1().StorageClasses(),
		PodInformer:               core.Pods(),
		NodeInformer:              core.Nodes(),
		EnableDynamicProvisioning: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make volume binder: %w", err)
	}
	return c.Run, nil
}

func buildEphemeralVolumes(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c, err := ephemeral.NewController(ctx, p.client, core.Pods(), core.PersistentVolumeClaims())
	if err != nil {
		return nil, fmt.Errorf("make ephemeral volume controller: %w", err)
	}
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

func buildClaimProtection(ctx context.Context, p *parts) (func(context.Context), error) {
	core := p.informers.Core().V1()
	c, err := pvcprotection.NewPVCProtectionController(klog.FromContext(ctx), core.PersistentVolumeClaims(), core.Pods(), p.client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}

func buildVolumeProtection(ctx context.Context, p *parts) (func(context.Context), error) {
	c, err := pvprotection.NewPVProtectionController(klog.FromContext(ctx), p.informers.Core().V1().PersistentVolumes(), p.client)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { c.Run(ctx, 1) }, nil
}
