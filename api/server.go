package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapifilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/pkg/controlplane"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
	"k8s.io/kubernetes/pkg/controlplane/controller/defaultservicecidr"
	"k8s.io/kubernetes/pkg/controlplane/controller/kubernetesservice"

	"shoal/api/metrics"
	"shoal/api/pki"
	"shoal/api/preconditions"
	apistorage "shoal/api/storage"
)

// endpointInterval is how often this peer checks that its endpoints of the
// `kubernetes` service are as published; only a person editing them by hand
// makes a difference.
const endpointInterval = time.Minute

// servicePort is the `kubernetes` service's, as everywhere.
const servicePort = 443

// Server is the API of one peer, built but not yet running.
type Server struct {
	chain     *aggregatorapiserver.APIAggregator
	informers informers.SharedInformerFactory
	inproc    *inproc
	loopback  *rest.Config
	node      *pki.Pair // this node's certificate
	ledgers   *ledgers
	storages  *apistorage.Set
	// cell is what addCellHooks started; Run waits for it.
	cell sync.WaitGroup
	log  *slog.Logger
}

// New builds the server chain. Nothing listens to requests until Run; the
// listener in o is owned by the server from here on, also when New fails.
func New(ctx context.Context, o Options) (*Server, error) {
	if err := setFeatures(); err != nil {
		return nil, fmt.Errorf("set feature gates: %w", err)
	}
	upstream, err := o.upstream()
	if err != nil {
		return nil, err
	}
	if err := upstream.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return nil, fmt.Errorf("set component versions: %w", err)
	}
	completed, err := upstream.Complete(ctx)
	if err != nil {
		return nil, fmt.Errorf("complete API server options: %w", err)
	}
	if completed.InformerName, err = cache.NewInformerName("shoal-" + o.NodeName); err != nil {
		return nil, fmt.Errorf("name informers: %w", err)
	}
	config, err := app.NewConfig(completed)
	if err != nil {
		return nil, fmt.Errorf("configure API server: %w", err)
	}
	storages := &apistorage.Set{}
	replaceStorage(config, o, storages)
	exemptExtra(config, o)
	ledgers, err := openLedgers(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Server{
		informers: config.KubeAPIs.ControlPlane.VersionedInformers,
		inproc:    newInproc(),
		loopback:  config.KubeAPIs.ControlPlane.Generic.LoopbackClientConfig,
		node:      pki.NewPair(o.PKI.Node, o.PKI.NodeKey),
		ledgers:   ledgers,
		storages:  storages,
		log:       o.Logger,
	}
	if s.chain, err = s.build(config, o); err != nil {
		return nil, fmt.Errorf("build API server chain: %w", err)
	}
	s.mountExtra(o)
	return s, nil
}

// replaceStorage puts our storage behind the four getters that hold one: kube
// APIs, API extensions, custom resources and the aggregator.
func replaceStorage(config *app.Config, o Options, storages *apistorage.Set) {
	decorator := apistorage.Decorator(o.DB, o.Cell, storages)
	wrap := func(inner generic.RESTOptionsGetter) generic.RESTOptionsGetter {
		return restOptions{inner, decorator}
	}
	config.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter = wrap(config.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter)
	config.ApiExtensions.GenericConfig.RESTOptionsGetter = wrap(config.ApiExtensions.GenericConfig.RESTOptionsGetter)
	config.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter = wrap(config.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter)
	config.Aggregator.GenericConfig.RESTOptionsGetter = wrap(config.Aggregator.GenericConfig.RESTOptionsGetter)
}

// localizeConditions has versions of other peers made ours where a request
// carries them as conditions. Only the aggregator's chain is ever entered.
func (s *Server) localizeConditions(config *genericapiserver.Config) {
	build := config.BuildHandlerChainFunc
	config.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		return build(preconditions.Handler(handler, s.localVersion), c)
	}
}

func (s *Server) localVersion(ctx context.Context, resource schema.GroupResource, namespace, name, version string) string {
	storage := s.storages.Get(resource)
	if storage == nil {
		return version
	}
	return storage.LocalVersion(ctx, namespace, name, version)
}

func (s *Server) build(config *app.Config, o Options) (*aggregatorapiserver.APIAggregator, error) {
	generic := config.KubeAPIs.ControlPlane.Generic
	client, err := kubernetes.NewForConfig(s.ClientConfig("shoal-apiserver"))
	if err != nil {
		return nil, err
	}
	if o.Cell.Peers != nil {
		s.localizeConditions(&config.Aggregator.GenericConfig.Config)
	}
	who := &config.Aggregator.GenericConfig.Authentication
	who.Authenticator = newCertificateCache(who.Authenticator)
	publisher := &endpoints{client: client, nodeName: o.NodeName, log: o.Logger}
	config.KubeAPIs.Extra.EndpointReconcilerConfig.Reconciler = publisher

	notFound := notfoundhandler.New(generic.Serializer, genericapifilters.NoMuxAndDiscoveryIncompleteKey)
	extensions, err := config.ApiExtensions.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(notFound))
	if err != nil {
		return nil, err
	}
	kube := config.KubeAPIs.Complete()
	server, err := s.buildKube(kube, extensions.GenericAPIServer, client)
	if err != nil {
		return nil, err
	}
	if err := s.addHooks(server, kube, publisher, client, o); err != nil {
		return nil, err
	}
	chain, err := controlplaneapiserver.CreateAggregatorServer(config.Aggregator.Complete(), server.GenericAPIServer,
		extensions.Informers.Apiextensions().V1().CustomResourceDefinitions(), true, priorities())
	if err != nil {
		return nil, err
	}
	return chain, s.registerMetrics(chain, client)
}

// registerMetrics keeps metrics.k8s.io among the groups this server tells of.
func (s *Server) registerMetrics(chain *aggregatorapiserver.APIAggregator, client kubernetes.Interface) error {
	services, err := aggregatorclient.NewForConfig(s.ClientConfig("shoal-apiserver"))
	if err != nil {
		return err
	}
	informer := chain.APIRegistrationInformers.Apiregistration().V1().APIServices().Informer()
	return chain.GenericAPIServer.AddPostStartHook("register-metrics", func(hook genericapiserver.PostStartHookContext) error {
		s.cell.Go(func() { metrics.Register(hook, services, informer, client, s.log) })
		return nil
	})
}

func (s *Server) buildKube(kube controlplane.CompletedConfig, extensions genericapiserver.DelegationTarget, client kubernetes.Interface) (*controlplaneapiserver.Server, error) {
	server, err := kube.ControlPlane.New(controlplaneapiserver.KubeAPIServer, extensions)
	if err != nil {
		return nil, err
	}
	nodePorts, err := s.ledgers.nodePorts()
	if err != nil {
		return nil, err
	}
	core := &coreGroup{
		GenericConfig: *kube.ControlPlane.NewCoreGenericConfig(),
		agents:        kube.Extra.KubeletClientConfig,
		proxy:         kube.ControlPlane.ProxyTransport,
		authorizer:    kube.ControlPlane.Generic.Authorization.Authorizer,
		unconditional: kube.ControlPlane.Generic.Authorization.Authorizer,
		slices:        kube.ControlPlane.EndpointSliceGetter,
		clusterIPs:    s.ledgers.allocators(),
		nodePorts:     nodePorts,
	}
	if err := server.InstallAPIs(groups(kube, core, client)...); err != nil {
		return nil, err
	}
	shared := kube.ControlPlane.VersionedInformers.Core().V1()
	if err := server.GenericAPIServer.InstallAPIGroup(metrics.Group(metrics.Options{
		Nodes: shared.Nodes().Lister(), Pods: shared.Pods().Lister(), Agents: core.connections, Logger: s.log,
	})); err != nil {
		return nil, fmt.Errorf("install metrics.k8s.io: %w", err)
	}
	return server, nil
}

// addHooks starts what runs beside the handlers: the `kubernetes` service, the
// default service range object and the repair of claims.
func (s *Server) addHooks(server *controlplaneapiserver.Server, kube controlplane.CompletedConfig, publisher *endpoints, client kubernetes.Interface, o Options) error {
	generic := server.GenericAPIServer
	_, port, err := kube.ControlPlane.Generic.SecureServing.HostPort()
	if err != nil {
		return err
	}
	service := kubernetesservice.New(kubernetesservice.Config{
		PublicIP:           kube.ControlPlane.Generic.PublicAddress,
		EndpointReconciler: publisher,
		EndpointInterval:   endpointInterval,
		ServiceIP:          kube.Extra.APIServerServiceIP,
		ServicePort:        servicePort,
		PublicServicePort:  port,
	}, client, kube.ControlPlane.VersionedInformers.Core().V1().Services())
	generic.AddPostStartHookOrDie("bootstrap-controller", func(hook genericapiserver.PostStartHookContext) error {
		service.Start(hook.Done())
		return nil
	})
	generic.AddPreShutdownHookOrDie("stop-kubernetes-service-controller", func() error {
		service.Stop()
		return nil
	})
	generic.AddPostStartHookOrDie("start-kubernetes-service-cidr-controller", func(hook genericapiserver.PostStartHookContext) error {
		defaultservicecidr.NewController(kube.Extra.ServiceIPRange, kube.Extra.SecondaryServiceIPRange, client).Start(hook)
		return nil
	})
	again := &comeback{self: o.NodeName, members: o.Members, log: s.log, make: func() error { return service.UpdateKubernetesService(false) }}
	return s.addCellHooks(generic, kube.ControlPlane.VersionedInformers, publisher, again, client, o)
}

// Run serves until ctx ends and all requests have drained.
func (s *Server) Run(ctx context.Context) error {
	prepared, err := s.chain.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare API server: %w", err)
	}
	s.inproc.bind(s.chain.GenericAPIServer.Handler)
	defer s.cell.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := prepared.Run(ctx); err != nil {
		return fmt.Errorf("serve API: %w", err)
	}
	return nil
}

// ClientConfig returns a client configuration for a component of this daemon.
// Its requests stay in the process. Rate limits are off: the component's own
// work queues bound it, and the server's limits apply to it as to anybody.
func (s *Server) ClientConfig(component string) *rest.Config {
	config := clientConfig(component, s.inproc)
	config.BearerToken = s.loopback.BearerToken
	return config
}

// NodeClientConfig is ClientConfig for what acts as this host's node: it may do
// what Kubernetes lets a node do, and no more.
func (s *Server) NodeClientConfig(component string) *rest.Config {
	return clientConfig(component, asNode{s.inproc, s.node})
}

func clientConfig(component string, transport http.RoundTripper) *rest.Config {
	return &rest.Config{
		Host:          "http://shoal.internal",
		Transport:     transport,
		UserAgent:     component,
		QPS:           -1,
		ContentConfig: rest.ContentConfig{AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json", ContentType: "application/vnd.kubernetes.protobuf"},
	}
}

// Informers returns the informers shared by everything in this daemon, the API
// server's own admission and authorization included.
func (s *Server) Informers() informers.SharedInformerFactory { return s.informers }

// restOptions puts our storage in place of etcd's.
type restOptions struct {
	generic.RESTOptionsGetter
	decorator generic.StorageDecorator
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (r restOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := r.RESTOptionsGetter.GetRESTOptions(resource, example)
	o.Decorator = r.decorator
	return o, err
}
