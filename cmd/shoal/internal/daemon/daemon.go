//go:build linux

// Package daemon runs one peer: it opens the store, serves the API over it and
// starts what works against that API (controllers, scheduler, agent, datapath),
// in this order and in one process.
//
// What always holds: one daemon per data directory; whatever Run started has
// ended when it returns, except what is meant to outlive it (pods, their
// network, pinned BPF programs); if one part fails, all parts stop and Run
// returns that part's error.
//
// Called by cmd/shoal only. It holds no logic of the parts, only their order.
package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	componentversion "k8s.io/component-base/version"

	"shoal/agent"
	"shoal/agent/runtimes"
	"shoal/api"
	"shoal/api/pki"
	"shoal/gossip"
	"shoal/gossip/join"
	"shoal/netdp"
	"shoal/netdp/announce/elect"
	"shoal/netdp/cni"
	"shoal/netdp/driver"
	nethosts "shoal/netdp/hosts"
	"shoal/netdp/policy"
	"shoal/netdp/wireguard"
	"shoal/sched"
	"shoal/sched/slices"
	"shoal/store"
)

const (
	// readyTimeout bounds the wait for the API to answer after a start.
	readyTimeout = 60 * time.Second
	// pkiDir and storeDir are below the data directory.
	pkiDir, storeDir = "pki", "store"
	// manifestsDir is where static pods are looked for unless a flag says else.
	manifestsDir = "manifests"
	// builtTimeout bounds the wait for the controllers to be made.
	builtTimeout = 10 * time.Second
	// stopTimeout bounds an orderly stop; beyond it the process exits anyway.
	stopTimeout = 20 * time.Second
)

// Output is where a start reports to.
type Output struct {
	Progress io.Writer // a line per step, for people
	Log      io.Writer
	// Ready is called once the API answers and the node is registered.
	Ready func()
}

// Run starts a peer and serves until ctx ends. drain, when closed, asks to stop
// this host's pods too before returning.
func Run(ctx context.Context, config Config, out Output, drain <-chan struct{}) error {
	config, err := config.complete()
	if err != nil {
		return err
	}
	if err := checkRoot(); err != nil {
		return err
	}
	if InBackground() { // what was relative is absolute now
		if err := os.Chdir("/"); err != nil {
			return fmt.Errorf("leave the working directory: %w", err)
		}
	}
	log := newLogger(out.Log, config.LogFormat)
	p := &peer{config: config, log: log, clock: store.SystemClock{}, progress: newProgress(out.Progress, log, config.LogFormat == "json"), conflicts: api.NewNameConflicts()}
	quietLibraries(log, func() bool { return p.serving.Load() && ctx.Err() == nil })
	tuneRuntime()
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	held, err := acquireLock(config.DataDir)
	if err != nil {
		return err
	}
	defer held.release()
	return p.run(ctx, out.Ready, drain)
}

// peer is the parts of a running daemon, in the order they start.
type peer struct {
	config   Config
	log      *slog.Logger
	progress *progress
	serving  atomic.Bool // from ready on
	// informing: the shared informers may be started by now.
	informing atomic.Bool

	// clock is the machine's unless a test has another.
	clock store.Clock

	listener   net.Listener
	identityMu sync.Mutex // held to change and save identity while parts run
	identity   identity
	files      pki.Files
	db         *store.DB
	stopGossip func() error
	// gossipLife is done when gossip has ended, with its error as the cause;
	// gossipFailed: that was told already.
	gossipLife   context.Context
	gossipFailed atomic.Bool
	// node is this host's part in gossip; publish the same from when it runs, for
	// the store, which is opened before.
	node    *cellNode
	publish atomic.Pointer[gossip.Node]
	// conflicts are of names made on several hosts apart.
	conflicts  *api.NameConflicts
	joins      atomic.Pointer[join.Service]
	containerd *containerdServer
	podCIDR    netip.Prefix
	ipv6       netip.Prefix // the cell's range; not valid: it has none
	// wireGuardKey is zero where the cell does not encrypt at the start.
	wireGuardKey wireguard.PrivateKey
	server       *api.Server
	datapath     *netdp.Datapath
	cni          *cni.Driver
	noNetwork    atomic.Pointer[error] // what networkReady said last
	agent        *agent.Agent
	announcer    *elect.Controller

	held      hold
	quit      context.CancelFunc // ends the daemon
	departure atomic.Pointer[departure]
}

func (p *peer) run(ctx context.Context, ready func(), drain <-chan struct{}) (err error) {
	defer func() { err = errors.Join(err, p.close()) }()
	defer p.noLongerHold()
	p.releasePods() // a daemon that was killed may have held them
	if err := p.open(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.quit = cancel
	group, ctx := errgroup.WithContext(ctx)
	// The API goes last: what stops before it still wants to write.
	apiCtx, stopAPI := context.WithCancel(context.WithoutCancel(ctx))
	apiDone := make(chan error, 1)
	go func() { apiDone <- p.server.Run(apiCtx) }()
	defer func() {
		stopAPI()
		select {
		case apiErr := <-apiDone:
			err = errors.Join(err, apiErr)
		case <-time.After(stopTimeout):
			err = errors.Join(err, errors.New("API server did not stop in time"))
		}
	}()
	group.Go(func() error {
		select {
		case apiErr := <-apiDone:
			apiDone <- nil
			if ctx.Err() == nil && apiErr == nil {
				return errors.New("API server ended by itself")
			}
			return apiErr
		case <-ctx.Done():
			return nil
		}
	})
	if err := p.startParts(ctx, group, ready); err != nil {
		cancel()
		return errors.Join(err, group.Wait())
	}
	group.Go(func() error { return p.drainWhenAsked(ctx, drain, cancel) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// open takes everything that can be refused, before anything runs.
func (p *peer) open(ctx context.Context) (err error) {
	c := p.config
	if err := c.freePorts(); err != nil {
		return err
	}
	if p.listener, err = listen(ctx, c.APIAddr); err != nil {
		return err
	}
	if err := p.enter(ctx); err != nil {
		return err
	}
	if err := p.chooseEncryption(ctx); err != nil {
		return err
	}
	if p.podCIDR, err = api.ClaimPodCIDR(ctx, p.db, c.Name); err != nil {
		return err
	}
	if err := p.progress.step("containerd at "+c.Containerd, func() (err error) {
		p.containerd, err = ensureContainerd(ctx, c.Containerd, c.DataDir, p.log)
		return err
	}); err != nil {
		return err
	}
	if err := p.openCNI(); err != nil {
		return err
	}
	if err := p.progress.step("datapath loaded", func() (err error) {
		p.datapath, err = netdp.Open(ctx, p.datapathOptions())
		return err
	}); err != nil {
		return err
	}
	if err := p.checkDriver(ctx); err != nil {
		return err
	}
	p.warnOfLinks()
	nodeIP := netip.MustParseAddr(c.NodeIP)
	if p.server, err = api.New(ctx, api.Options{
		DB: p.db, PKI: p.files, Listener: p.listener, Advertise: nodeIP, NodeName: c.Name,
		AgentPort: c.AgentPort, ServiceCIDR: api.DefaultServiceCIDR, ServiceCIDR6: p.serviceCIDR6(), Logger: p.log.With("part", "api"), Extra: p.extra(),
		PodCIDR: p.podCIDR, PodCIDR6: p.datapath.PodCIDR6(), Cell: p.cell(), Members: p.hostMembers(), Conflicts: p.conflicts,
	}); err != nil {
		return err
	}
	return c.save()
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("API address %s is taken by another process; find it with `ss -ltnp`, or give another with --api-addr: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("API address %s is not on this host; see `ip addr`, or give another with --api-addr: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("listen on API address %s: %w", addr, err)
	}
	return l, nil
}

func (p *peer) datapathOptions() netdp.Options {
	o := netdp.Options{
		StateDir:    netStateDir(p.config),
		BPFFSDir:    filepath.Join(runDir(p.config), "bpf"),
		CgroupRoot:  p.config.CgroupRoot,
		NodeName:    p.config.Name,
		NodeIPs:     p.nodeIPs(nil),
		PodCIDR:     p.podCIDR,
		CellPodCIDR: api.PodRange,
		ServiceCIDR: api.DefaultServiceCIDR,
		RoutedPods:  p.routedPods(),
		Logger:      p.log.With("part", "netdp"),

		NoMasquerade: p.config.NoMasquerade, MasqueradeExcept: p.config.MasqueradeExcept,
		SetLimits:    p.config.MapLimits,
		WireGuardKey: p.wireGuardKey,
	}
	if p.ipv6.IsValid() {
		o.PodCIDR6, o.CellPodCIDR6, o.ServiceCIDR6 = p.podCIDR6(), api.PodRange6(p.ipv6), p.serviceCIDR6()
	}
	return o
}

// startParts waits for the API and then starts everything that uses it.
func (p *peer) startParts(ctx context.Context, group *errgroup.Group, ready func()) error {
	if err := p.progress.step("API answers", func() error { return p.waitReady(ctx) }); err != nil {
		return err
	}
	server := p.config.serverURL(p.listener.Addr())
	kubeconfig := filepath.Join(p.config.DataDir, "admin.kubeconfig")
	if err := api.WriteKubeconfig(kubeconfig, server, p.files); err != nil {
		return err
	}
	if p.config.WriteKubeconfig != "" {
		if err := api.MergeKubeconfig(p.config.WriteKubeconfig, server, p.files); err != nil {
			return err
		}
	}
	client := func(name string) (kubernetes.Interface, error) {
		return kubernetes.NewForConfig(p.server.ClientConfig(name))
	}
	informers := sched.Lasting(ctx, p.server.Informers())
	schedClient, err := client("shoal-scheduler")
	if err != nil {
		return fmt.Errorf("make scheduler client: %w", err)
	}
	joinClient, err := client("shoal-join")
	if err != nil {
		return fmt.Errorf("make join client: %w", err)
	}
	if err := p.serveJoins(joinClient); err != nil {
		return err
	}
	resolver, err := p.newDNS(ctx, informers)
	if err != nil {
		return err
	}
	group.Go(func() error { return named("dns", resolver.run(ctx)) })
	services, err := p.newServices(informers, resolver)
	if err != nil {
		return err
	}
	policies, err := policy.New(p.datapath, informers, p.log.With("part", "policy"))
	if err != nil {
		return err
	}
	if err := p.startUnenforced(ctx, group, informers); err != nil {
		return err
	}
	announced, err := p.startLoadBalancers(ctx, group, informers)
	if err != nil {
		return err
	}
	watched, err := p.watchDatapath(informers, services.controller, announced)
	if err != nil {
		return err
	}
	if p.agent, err = p.newAgent(p.server.NodeClientConfig("shoal-agent"), resolver, watched); err != nil {
		return err
	}
	volumes, err := p.newProvisioner(informers)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(p.files.CA)
	if err != nil {
		return fmt.Errorf("read certificate authority: %w", err)
	}
	group.Go(func() error { return p.watchGossip(ctx) })
	group.Go(func() error {
		return named("containerd", p.containerd.keep(ctx, p.config.Containerd, p.config.DataDir, p.log))
	})
	group.Go(func() error { return p.keepMember(ctx) })
	group.Go(func() error { return named("gossip keyring", p.keepRing(ctx)) })
	leader, err := p.newLeader(ctx, group)
	if err != nil {
		return err
	}
	p.lead(ctx, group, "scheduler", leader, slices.All(), p.scheduler(schedClient, informers, leader))
	built := make(chan struct{})
	var once sync.Once
	p.lead(ctx, group, "controllers", leader, oneOf("controllers"),
		p.controllers(ca, informers, func() { once.Do(func() { close(built) }) }))
	if p.alone() {
		select {
		case <-built:
		case <-time.After(builtTimeout): // somebody has joined just now, and leads
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p.informing.Store(true)
	hostsClient, err := client("shoal-hosts")
	if err != nil {
		return fmt.Errorf("make hosts client: %w", err)
	}
	hosts := nethosts.New(p.datapath, hostsClient, informers, p.config.Name, p.log.With("part", "hosts"))
	group.Go(func() error { return named("hosts", hosts.Run(ctx)) })
	group.Go(func() error { return named("encryption", p.followEncryption(ctx, hosts.Wake)) })
	group.Go(func() error { return named("services", services.run(ctx)) })
	group.Go(func() error { return named("datapath", p.keepDatapath(ctx)) })
	group.Go(func() error { p.collectNetwork(ctx); return nil })
	group.Go(func() error { return named("network policies", policies.Run(ctx)) })
	group.Go(func() error { return named("volumes", volumes.Run(ctx)) })
	p.startAgent(ctx, group, schedClient.CoreV1().Nodes())
	group.Go(func() error { return named("certificates", p.keepCertificates(ctx, server, kubeconfig)) })
	informers.Start(ctx.Done())
	if err := p.progress.step("node "+p.config.Name+" registered", func() error { return p.waitNode(ctx, schedClient) }); err != nil {
		return err
	}
	p.progress.ready(p.config.Name, server, kubeconfig)
	p.serving.Store(true)
	if ready != nil {
		ready()
	}
	return nil
}

func named(part string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}

func (p *peer) newAgent(config *rest.Config, resolver *clusterDNS, handlers map[string]http.Handler) (*agent.Agent, error) {
	tlsConfig, err := agentTLS(p.files)
	if err != nil {
		return nil, err
	}
	group, err := podGroup(p.config.CgroupRoot)
	if err != nil {
		return nil, err
	}
	logLimits, err := p.config.logLimits()
	if err != nil {
		return nil, err
	}
	others, err := runtimes.Parse(p.config.Runtimes)
	if err != nil {
		return nil, err
	}
	peers, err := p.imagePeers()
	if err != nil {
		return nil, err
	}
	a, err := agent.New(agent.Options{
		Runtimes:            others,
		Security:            agent.Security{SeccompDefault: p.config.SeccompDefault, UnsafeSysctls: p.config.UnsafeSysctls},
		NodeName:            p.config.Name,
		Config:              config,
		ContainerdSocket:    p.config.Containerd,
		ContainerdNamespace: p.config.ContainerdNamespace,
		CgroupRoot:          group,
		KeepCgroupRoot:      group != defaultPodGroup,
		DataDir:             p.config.DataDir,
		LogDir:              podLogDir,
		LogLimits:           logLimits,
		Network:             p.networkDriver(),
		NetworkReady:        p.networkReady,
		Conditions:          p.nodeConditions,
		NodeLabels:          map[string]string{driver.NodeLabel: p.config.NetworkDriver},
		NodeIPs:             p.datapath.NodeIPs,
		PodCIDRs:            p.agentPodCIDRs(),
		DNSAddress:          resolver.keeper.Address,
		ClusterDomain:       clusterDomain,
		Collectors:          append(resolver.server.Metrics(), p.datapath.Metrics()),
		Handlers:            handlers,
		Resources:           p.config.Resources,
		DevicePluginDir:     p.config.DevicePluginDir,
		Manifests:           orDefault(p.config.Manifests, filepath.Join(p.config.DataDir, manifestsDir)),
		Shutdown:            p.config.Shutdown,
		ListenAddr:          p.config.agentAddr(),
		TLS:                 tlsConfig,
		Images:              p.config.images(peers),
		Version:             componentversion.Get().GitVersion,
		Looked:              p.releasePods,
		Logger:              p.log.With("part", "agent"),
	})
	if err != nil {
		return nil, fmt.Errorf("make agent: %w", err)
	}
	return a, nil
}

// agentTLS serves the agent's API. A caller's certificate must be of this cell;
// one that has none has a token, and the agent looks at what both may do.
func agentTLS(files pki.Files) (*tls.Config, error) {
	certificate, err := agentCertificate(files)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &tls.Config{
		GetCertificate: certificate,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      roots,
		MinVersion:     tls.VersionTLS12,
	}, nil
}

func (p *peer) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return p.server.AwaitReady(ctx)
}

// drainWhenAsked stops this host's pods when drain closes, then everything.
func (p *peer) drainWhenAsked(ctx context.Context, drain <-chan struct{}, cancel func()) error {
	select {
	case <-ctx.Done():
		return nil
	case <-drain:
	}
	defer cancel()
	p.serving.Store(false)
	p.stopAnnouncing(ctx)
	if err := p.agent.StopPods(ctx); err != nil {
		return fmt.Errorf("stop pods: %w", err)
	}
	return p.removeNetwork()
}

// close gives back what open took, in reverse.
func (p *peer) close() error {
	var problems []error
	if p.datapath != nil {
		problems = append(problems, p.datapath.Close())
	}
	if p.stopGossip != nil {
		problems = append(problems, p.stopGossip())
	}
	if p.db != nil {
		problems = append(problems, p.db.Close())
	}
	if p.listener != nil {
		_ = p.listener.Close() // the API server has closed it already if it ran
	}
	p.containerd.stop()
	return errors.Join(problems...)
}
