package agent

import (
	"context"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/eviction"
)

func (a *Agent) newMonitor() *eviction.Monitor {
	return eviction.New(eviction.Options{
		Node: a.o.NodeName, Thresholds: a.o.Resources.plan.Thresholds, Transition: a.o.Resources.EvictionTransition,
		Groups: a.cgroups, NodeFS: a.o.DataDir, ImageFS: a.imageRoot,
		Pods: a.running, PodStats: a.stats.PodStats,
		Kill: a.runner.Evict, Gone: a.runner.Released,
		Containers: a.runner.CollectDead,
		Recorder:   a.events.recorder, Changed: a.node.poke, Logger: a.log,
	})
}

// running are the pods that were admitted and have not ended.
func (a *Agent) running() []*v1.Pod { return a.pods.running() }

// imageRoot is where containerd keeps images; empty if it does not say. What it
// said once stays true.
func (a *Agent) imageRoot(ctx context.Context) string {
	if root := a.imageDir.Load(); root != nil {
		return *root
	}
	answer, err := a.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+snapshotter)
	if err != nil {
		return ""
	}
	for _, p := range answer.Plugins {
		if root := p.Exports["root"]; root != "" {
			a.imageDir.Store(&root)
			return root
		}
	}
	return ""
}
