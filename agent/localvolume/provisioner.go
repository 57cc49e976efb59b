package localvolume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/keymutex"

	"shoal/api/storageclass"
)

const (
	// workers is how many volumes are worked on at once. Each waits for the
	// disk nearly all of the time.
	workers = 8
	// firstRetry doubles per failure up to longestRetry.
	firstRetry   = 200 * time.Millisecond
	longestRetry = time.Minute
	// callTimeout bounds the work on one volume.
	callTimeout = time.Minute
)

// Options is what a Provisioner needs.
type Options struct {
	// Client acts as storageclass.User.
	Client kubernetes.Interface
	// Informers is the daemon's shared factory.
	Informers informers.SharedInformerFactory
	// NodeName is this host's.
	NodeName string
	// DataDir is the daemon's; volumes are in volumes/ below it.
	DataDir string
	// InUse reports whether a pod of this host has the volume at a path.
	InUse  func(path string) (bool, error)
	Logger *slog.Logger
}

// key is one thing to look at: a volume by its name, for a claim if one is
// named.
type key struct{ volume, namespace, claim string }

// Provisioner makes and deletes this host's volumes.
type Provisioner struct {
	o       Options
	log     *slog.Logger
	backend *Directories
	queue   workqueue.TypedRateLimitingInterface[key]
	// names serializes the work on one volume.
	names  keymutex.KeyMutex
	events record.EventRecorder
	room   *room

	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	nodes   corelisters.NodeLister
	classes storagelisters.StorageClassLister
	synced  []cache.InformerSynced
	unwatch []func()
}

// New opens the directory of volumes and registers informers; call it before
// the shared factory is started.
func New(o Options) (*Provisioner, error) {
	core := o.Informers.Core().V1()
	p := &Provisioner{
		o: o, log: o.Logger,
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](firstRetry, longestRetry)),
		names:  keymutex.NewHashed(workers),
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(), nodes: core.Nodes().Lister(),
		classes: o.Informers.Storage().V1().StorageClasses().Lister(),
	}
	var err error
	if p.backend, err = OpenDirectories(filepath.Join(o.DataDir, "volumes"), p.promised, p.log); err != nil {
		return nil, err
	}
	p.room = &room{p: p, changed: make(chan struct{}, 1)}
	return p, errors.Join(p.watch()...)
}

// Run works until the context ends, and has then ended all it started.
func (p *Provisioner) Run(ctx context.Context) error {
	defer func() {
		for _, stop := range p.unwatch {
			stop()
		}
	}()
	if !cache.WaitForCacheSync(ctx.Done(), p.synced...) {
		return nil
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: p.o.Client.CoreV1().Events("")})
	p.events = broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: storageclass.Provisioner, Host: p.o.NodeName})
	p.collect()

	var all errgroup.Group
	all.Go(func() error { p.purge(ctx); return nil })
	all.Go(func() error { p.room.run(ctx); return nil })
	for range workers {
		all.Go(func() error {
			for p.one(ctx) {
			}
			return nil
		})
	}
	<-ctx.Done()
	p.queue.ShutDown()
	return all.Wait()
}

func (p *Provisioner) one(ctx context.Context) bool {
	k, quit := p.queue.Get()
	if quit {
		return false
	}
	defer p.queue.Done(k)
	err := p.guarded(ctx, k)
	if err == nil {
		p.queue.Forget(k)
		return true
	}
	if ctx.Err() == nil {
		p.log.Warn("a volume could not be worked on; it is tried again", "volume", k.volume, "attempts", p.queue.NumRequeues(k)+1, "error", err)
		p.queue.AddRateLimited(k)
	}
	return true
}

// guarded holds one volume, and turns a panic into an error that names it.
func (p *Provisioner) guarded(ctx context.Context, k key) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p.names.LockKey(k.volume)
	defer func() { _ = p.names.UnlockKey(k.volume) }() // it is locked
	if k.claim != "" {
		return p.syncClaim(ctx, k)
	}
	return p.syncVolume(ctx, k.volume)
}

// promised is the size of all volumes of this host together, in bytes.
func (p *Provisioner) promised() int64 {
	all, err := p.volumes.List(labels.Everything())
	if err != nil { // a lister reads memory
		return 0
	}
	var sum int64
	for _, pv := range all {
		if p.mine(pv) {
			capacity := pv.Spec.Capacity[v1.ResourceStorage]
			sum += capacity.Value()
		}
	}
	return sum
}

// purge removes what was deleted and not yet removed, in an earlier life.
func (p *Provisioner) purge(ctx context.Context) {
	if err := p.backend.Purge(ctx); err != nil {
		p.log.Warn("files of deleted volumes could not be removed; the next deletion tries again", "error", err)
	}
}
