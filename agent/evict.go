package agent

import (
	"context"
	"math"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/eviction"
)

func (a *Agent) newMonitor() *eviction.Monitor {
	return eviction.New(eviction.Options{
		Node: a.o.NodeName, Thresholds: a.o.Resources.plan.Thresholds, Transition: a.o.Resources.EvictionTransition,
		Groups: a.cgroups, NodeFS: a.o.DataDir, ImageFS: a.images.Root,
		Pods: a.running, PodStats: a.stats.PodStats,
		Kill: a.runner.Evict, Gone: a.runner.Released,
		Containers: a.runner.CollectDead, Images: a.dropUnusedImages,
		Recorder: a.events.recorder, Changed: a.node.poke, Logger: a.log,
	})
}

// running are the pods that were admitted and have not ended.
func (a *Agent) running() []*v1.Pod { return a.pods.running() }

// dropUnusedImages removes every image that nothing uses and that is not new, as
// the kubelet does before it evicts.
func (a *Agent) dropUnusedImages(ctx context.Context) error {
	_, err := a.CollectImages(ctx, math.MaxInt64)
	return err
}
