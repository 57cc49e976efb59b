package controllers

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	quotageneric "k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/scale"
	"k8s.io/kubernetes/pkg/controller/disruption"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	"k8s.io/kubernetes/pkg/controller/resourcequota"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
)

// This file has the loops that work on objects of any kind, those of custom
// resources included.

func buildCollector(ctx context.Context, p *parts) (func(context.Context), error) {
	c, err := garbagecollector.NewGarbageCollector(ctx, p.client, p.metadata, p.mapper, uncollected(), p.shared, p.started)
	if err != nil {
		return nil, fmt.Errorf("make garbage collector: %w", err)
	}
	return together(
		func(ctx context.Context) { c.Sync(ctx, p.discovery, kindsPeriod) },
		func(ctx context.Context) { c.Run(ctx, collectorWorkers, kindsPeriod) },
	), nil
}

func buildQuota(ctx context.Context, p *parts) (func(context.Context), error) {
	listers := quotageneric.ListerFuncForResourceFunc(p.shared.ForResource)
	config, err := quotainstall.NewQuotaConfigurationForControllers(listers, p.informers)
	if err != nil {
		return nil, fmt.Errorf("configure quotas: %w", err)
	}
	every := func(d time.Duration) func() time.Duration { return func() time.Duration { return d } }
	c, err := resourcequota.NewController(ctx, &resourcequota.ControllerOptions{
		QuotaClient:               p.client.CoreV1(),
		ResourceQuotaInformer:     p.informers.Core().V1().ResourceQuotas(),
		ResyncPeriod:              every(quotaResync),
		InformerFactory:           p.shared,
		ReplenishmentResyncPeriod: every(0),
		DiscoveryFunc:             p.discovery.ServerPreferredNamespacedResources,
		IgnoredResourcesFunc:      config.IgnoredResources,
		InformersStarted:          p.started,
		Registry:                  quotageneric.NewRegistry(config.Evaluators()),
		UpdateFilter:              quotainstall.DefaultUpdateFilter(),
	})
	if err != nil {
		return nil, fmt.Errorf("make quota controller: %w", err)
	}
	return together(
		func(ctx context.Context) { c.Run(ctx, fewWorkers) },
		func(ctx context.Context) { c.Sync(ctx, p.discovery.ServerPreferredNamespacedResources, kindsPeriod) },
	), nil
}

func buildDisruption(ctx context.Context, p *parts) (func(context.Context), error) {
	scales, err := scale.NewForConfig(p.config, p.mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(p.client.Discovery()))
	if err != nil {
		return nil, fmt.Errorf("make scale client: %w", err)
	}
	apps, core := p.informers.Apps().V1(), p.informers.Core().V1()
	c := disruption.NewDisruptionController(ctx, core.Pods(), p.informers.Policy().V1().PodDisruptionBudgets(), core.ReplicationControllers(),
		apps.ReplicaSets(), apps.Deployments(), apps.StatefulSets(), p.client, p.mapper, scales, p.client.Discovery())
	return func(ctx context.Context) { c.Run(ctx, fewWorkers) }, nil
}

// together runs functions that each run until the context ends.
func together(runs ...func(context.Context)) func(context.Context) {
	return func(ctx context.Context) {
		var all errgroup.Group
		for _, run := range runs {
			all.Go(func() error { run(ctx); return nil })
		}
		_ = all.Wait() // none returns an error
	}
}
