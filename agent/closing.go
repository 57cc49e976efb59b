package agent

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"

	"shoal/agent/runner"
	"shoal/agent/shutdown"
)

// newShutdown makes what ends pods when the machine shuts down.
func (a *Agent) newShutdown() *shutdown.Manager {
	return shutdown.New(shutdown.Options{
		Periods: a.o.Shutdown, Bus: a.o.ShutdownBus, Logger: a.log, Pods: a.unfinished, Changed: a.shutdownChanged, Flush: a.status.flush,
		Running: func(pod *v1.Pod) bool {
			return slices.ContainsFunc(a.runner.Containers(pod.UID), func(c runner.Ref) bool { return c.Running })
		},
		End: func(ctx context.Context, pod *v1.Pod, grace int64, change func(*v1.PodStatus)) error {
			return a.runner.Evict(ctx, pod.UID, grace, change)
		},
	})
}

// shutdownChanged tells the API that the machine goes down, or does not after
// all.
func (a *Agent) shutdownChanged() {
	message := "Shutdown manager detected shutdown cancellation"
	if a.shutdown.Closing() {
		message = "Shutdown manager detected shutdown event"
	}
	a.events.node(a.o.NodeName, v1.EventTypeNormal, "Shutdown", message)
	a.node.poke()
}

// unfinished are this host's pods that have not ended.
func (a *Agent) unfinished() []*v1.Pod {
	var out []*v1.Pod
	for _, pod := range a.pods.list() {
		if pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed {
			out = append(out, pod)
		}
	}
	return out
}
