// Package controllers runs the loops that turn what users ask for into pods,
// endpoints, accounts and clean-up.
//
// The ReplicaSet controller is ours, because overlap must be harmless: two
// leaders with the same view create pods of the same names, which are then the
// same pods. All others are upstream's, used as libraries; each entry of the
// table in upstream.go says why two of them at once do no lasting harm.
//
// What always holds: all loops share the daemon's informers and one client;
// nothing here lists or polls the API on a timer, but for pod garbage
// collection, which reads the cache; a panic over one object is caught, logged
// and ends neither the loop nor the daemon; a loop that ends while it should
// run is built anew after a pause.
//
// The daemon in cmd/shoal calls Run once. Node life cycle, certificate signing
// and autoscaling are not here; volumes are bound here and made by the hosts.
package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// A loop that ended is built anew after firstRestart, doubled each time up to
// longestRestart.
const (
	firstRestart   = time.Second
	longestRestart = 5 * time.Minute
)

// Options is what the controllers need.
type Options struct {
	// Config reaches this peer's own API server as an administrator.
	Config *rest.Config
	// Informers is the daemon's shared factory. Give it StripManagedFields as
	// its transform.
	Informers informers.SharedInformerFactory
	// RootCA is the PEM bundle published to every namespace.
	RootCA []byte
	// Built, if set, is called once all loops have registered what they watch
	// for, before the informers are started.
	Built  func()
	Logger *slog.Logger
}

// loop is one controller: build makes it, registering its informers, and what
// it returns runs until the context ends.
type loop struct {
	name  string
	build func(context.Context, *parts) (func(context.Context), error)
}

// parts is what loops are built from.
type parts struct {
	client    kubernetes.Interface
	config    *rest.Config
	metadata  metadata.Interface
	informers informers.SharedInformerFactory
	discovery *cachedDiscovery
	mapper    meta.ResettableRESTMapper
	shared    *sharedInformers
	rootCA    []byte
	log       *slog.Logger
	started   chan struct{}
}

// quiet is for library calls that insist on a logger.
var quiet = logr.Discard()

func init() {
	// Upstream's loops catch a panic and then panic again on purpose, to be
	// restarted as a process of their own. Here they share the process with
	// everything else, so it ends with the catch.
	utilruntime.ReallyCrash = false
}

// Run starts all controllers and returns when the context has ended and they
// have. An error means they could not be built.
func Run(ctx context.Context, o Options) error {
	p, err := newParts(o)
	if err != nil {
		return fmt.Errorf("start controllers: %w", err)
	}
	loops := allLoops()
	runs := make([]func(context.Context), len(loops))
	for i, l := range loops {
		if runs[i], err = l.build(l.context(ctx, p.log), p); err != nil {
			return fmt.Errorf("start controller %s: %w", l.name, err)
		}
	}
	if o.Built != nil {
		o.Built()
	}
	o.Informers.Start(ctx.Done())
	p.shared.Start(ctx.Done())
	close(p.started)

	var all errgroup.Group
	for i, l := range loops {
		all.Go(func() error { l.supervise(ctx, p, runs[i]); return nil })
	}
	err = all.Wait()
	p.shared.shutdown()
	return err
}

func newParts(o Options) (*parts, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	config := rest.CopyConfig(o.Config)
	config.QPS = -1 // the API server is in this process; its own fairness limits us
	config.RateLimiter = nil
	config.UserAgent = "shoal-controllers"
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make transport: %w", err)
	}
	client, err := kubernetes.NewForConfigAndClient(config, transport)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	metadataClient, err := metadata.NewForConfigAndClient(metadata.ConfigFor(config), transport)
	if err != nil {
		return nil, fmt.Errorf("make metadata client: %w", err)
	}
	found := newCachedDiscovery(client.Discovery())
	p := &parts{
		client: client, config: config, metadata: metadataClient, informers: o.Informers,
		discovery: found, mapper: found.mapper(), rootCA: o.RootCA,
		log: o.Logger.With("component", "controllers"), started: make(chan struct{}),
	}
	p.shared = newSharedInformers(o.Informers, metadataClient, p.mapper)
	if err := found.follow(p.shared); err != nil {
		return nil, fmt.Errorf("watch for new kinds: %w", err)
	}
	return p, nil
}

// context carries a logger that names the loop; upstream's loops report with it,
// their caught panics included.
func (l loop) context(ctx context.Context, log *slog.Logger) context.Context {
	return klog.NewContext(ctx, upstreamLogger(log.With("controller", l.name)))
}

// supervise keeps one loop running.
func (l loop) supervise(ctx context.Context, p *parts, run func(context.Context)) {
	ctx = l.context(ctx, p.log)
	pause := firstRestart
	for {
		began := time.Now()
		l.guarded(ctx, p, run)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longestRestart {
			pause = firstRestart
		}
		p.log.Error("a controller ended; it is started again", "controller", l.name, "pause", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, longestRestart)
		var err error
		if run, err = l.build(ctx, p); err != nil {
			p.log.Error("a controller could not be started again", "controller", l.name, "error", err)
			run = func(context.Context) {}
		}
		p.informers.Start(ctx.Done())
		p.shared.Start(ctx.Done())
	}
}

func (l loop) guarded(ctx context.Context, p *parts, run func(context.Context)) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error("a controller panicked", "controller", l.name, "panic", r, "stack", string(debug.Stack()))
		}
	}()
	run(ctx)
}

// replicaSetLoop is ours; upstream.go has the others.
func replicaSetLoop(_ context.Context, p *parts) (func(context.Context), error) {
	r, err := newReplicaSets(p.client, p.informers, p.log, clock.RealClock{})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) { _ = r.Run(ctx) }, nil // its keys report their own errors
}
