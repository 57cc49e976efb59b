package agent

import (
	"context"
	"math"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/eviction"
)

func (a *Agent) newMonitor() *eviction.Monitor {
	look := &firstLook{a: a}
	return eviction.New(eviction.Options{
		Node: a.o.NodeName, Thresholds: a.o.Resources.plan.Thresholds, Transition: a.o.Resources.EvictionTransition,
		Groups: a.cgroups, NodeFS: a.o.DataDir, ImageFS: a.images.Root,
		Pods: look.pods, PodStats: a.stats.PodStats,
		Kill: look.evict, Gone: a.runner.Released,
		Containers: a.runner.CollectDead, Images: a.dropUnusedImages,
		Recorder: a.events.recorder, Changed: a.node.poke, Logger: a.log,
	})
}

// firstLook calls Options.Looked: nothing frozen would end, and nothing that is to
// end should go on for long before.
type firstLook struct {
	a    *Agent
	all  bool // a look with all pods known has begun; the monitor's loop alone uses it
	once sync.Once
}

func (f *firstLook) pods() []*v1.Pod {
	known := f.a.known.Load()
	if f.all {
		f.done()
	}
	f.all = known
	return f.a.running()
}

func (f *firstLook) evict(ctx context.Context, uid types.UID, grace int64, change func(*v1.PodStatus)) error {
	f.done()
	return f.a.runner.Evict(ctx, uid, grace, change)
}

func (f *firstLook) done() {
	if f.a.o.Looked != nil {
		f.once.Do(f.a.o.Looked)
	}
}

// running are the pods that were admitted and have not ended.
func (a *Agent) running() []*v1.Pod { return a.pods.running() }

// dropUnusedImages removes every image that nothing uses and that is not new, as
// the kubelet does before it evicts.
func (a *Agent) dropUnusedImages(ctx context.Context) error {
	_, err := a.CollectImages(ctx, math.MaxInt64)
	return err
}
