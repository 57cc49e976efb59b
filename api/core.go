package api

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/proxy"
	admissionclient "k8s.io/client-go/kubernetes/typed/admissionregistration/v1"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
	api "k8s.io/kubernetes/pkg/apis/core"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/kubernetes/pkg/registry/core/componentstatus"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	pvstore "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	pvcstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	controllerstore "k8s.io/kubernetes/pkg/registry/core/replicationcontroller/storage"
	corerest "k8s.io/kubernetes/pkg/registry/core/rest"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
)

// coreGroup is the storage of the legacy core group. Upstream's own provider
// cannot be used: its node port allocator opens an etcd client of its own,
// past every seam, and blocks on it.
type coreGroup struct {
	corerest.GenericConfig

	agents        kubeletclient.KubeletClientConfig
	proxy         http.RoundTripper
	authorizer    authorizer.Authorizer
	unconditional authorizer.UnconditionalAuthorizer
	slices        proxy.EndpointSliceGetter
	clusterIPs    []ipallocator.Interface // the cell's first family first
	nodePorts     portallocator.Interface

	// connections finds the agents of nodes; set by NewRESTStorage.
	connections kubeletclient.ConnectionInfoGetter
}

// resources collects the storage of one group version, skipping what the
// cell's API configuration turned off.
type resources struct {
	enabled serverstorage.APIResourceConfigSource
	byName  map[string]rest.Storage
}

func (r resources) add(resource string, storage map[string]rest.Storage) {
	if !r.enabled.ResourceEnabled(corev1.SchemeGroupVersion.WithResource(resource)) {
		return
	}
	for sub, s := range storage {
		if s != nil {
			r.byName[resource+sub] = s
		}
	}
}

// NewRESTStorage implements controlplane's RESTStorageProvider.
func (g *coreGroup) NewRESTStorage(enabled serverstorage.APIResourceConfigSource, getter generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error) {
	info, err := g.GenericConfig.NewRESTStorage(enabled, getter)
	if err != nil {
		return info, err
	}
	byName := info.VersionedResourcesStorageMap["v1"]
	if byName == nil {
		byName = map[string]rest.Storage{}
		info.VersionedResourcesStorageMap["v1"] = byName
	}
	r := resources{enabled, byName}
	pods, nodes, err := g.addPodsAndNodes(r, getter)
	if err != nil {
		return info, fmt.Errorf("build pod and node storage: %w", err)
	}
	if err := g.addServices(r, getter, pods); err != nil {
		return info, fmt.Errorf("build service storage: %w", err)
	}
	if err := g.addServiceAccounts(r, getter, pods, nodes); err != nil {
		return info, fmt.Errorf("build service account storage: %w", err)
	}
	if err := g.addPlain(r, getter); err != nil {
		return info, fmt.Errorf("build core storage: %w", err)
	}
	return info, nil
}

func (g *coreGroup) addPodsAndNodes(r resources, getter generic.RESTOptionsGetter) (podstore.PodStorage, *nodestore.NodeStorage, error) {
	nodes, err := nodestore.NewStorage(getter, g.agents, g.proxy)
	if err != nil {
		return podstore.PodStorage{}, nil, err
	}
	g.connections = nodes.KubeletConnectionInfo
	budgets, err := policyclient.NewForConfig(g.LoopbackClientConfig)
	if err != nil {
		return podstore.PodStorage{}, nil, err
	}
	pods, err := podstore.NewStorage(getter, nodes.KubeletConnectionInfo, g.proxy, budgets, g.unconditional)
	if err != nil {
		return podstore.PodStorage{}, nil, err
	}
	r.add("pods", map[string]rest.Storage{
		"":                     pods.Pod,
		"/attach":              pods.Attach,
		"/status":              pods.Status,
		"/log":                 pods.Log,
		"/exec":                pods.Exec,
		"/portforward":         pods.PortForward,
		"/proxy":               pods.Proxy,
		"/binding":             pods.Binding,
		"/eviction":            pods.Eviction,
		"/ephemeralcontainers": pods.EphemeralContainers,
		"/resize":              pods.Resize,
	})
	r.add("bindings", map[string]rest.Storage{"": pods.LegacyBinding})
	r.add("nodes", map[string]rest.Storage{"": nodes.Node, "/proxy": nodes.Proxy, "/status": nodes.Status})
	return pods, nodes, nil
}

func (g *coreGroup) addServices(r resources, getter generic.RESTOptionsGetter, pods podstore.PodStorage) error {
	families := map[api.IPFamily]ipallocator.Interface{}
	for _, a := range g.clusterIPs {
		families[a.IPFamily()] = a
	}
	services, status, proxy, err := servicestore.NewREST(getter, g.clusterIPs[0].IPFamily(), families, g.nodePorts, g.slices, pods.Pod, g.proxy)
	if err != nil {
		return err
	}
	endpoints, err := endpointsstore.NewREST(getter)
	if err != nil {
		return err
	}
	r.add("services", map[string]rest.Storage{"": services, "/status": status, "/proxy": proxy})
	r.add("endpoints", map[string]rest.Storage{"": endpoints})
	return nil
}

// addServiceAccounts replaces the generic group's storage by one whose tokens
// can be bound to pods and nodes.
func (g *coreGroup) addServiceAccounts(r resources, getter generic.RESTOptionsGetter, pods podstore.PodStorage, nodes *nodestore.NodeStorage) error {
	hooks, err := admissionclient.NewForConfig(g.LoopbackClientConfig)
	if err != nil {
		return err
	}
	secrets, ok := r.byName["secrets"].(rest.Getter)
	if !ok {
		return fmt.Errorf("secrets are not served")
	}
	accounts, err := serviceaccountstore.NewREST(getter, g.ServiceAccountIssuer, g.APIAudiences, g.authorizer, g.ServiceAccountMaxExpiration,
		pods.Pod.Store, secrets, nodes.Node.Store, hooks.ValidatingWebhookConfigurations(), hooks.MutatingWebhookConfigurations(),
		g.ExtendExpiration, g.MaxExtendedExpiration)
	if err != nil {
		return err
	}
	for _, name := range []string{"serviceaccounts", "serviceaccounts/token"} {
		if old := r.byName[name]; old != nil {
			old.Destroy()
		}
	}
	r.add("serviceaccounts", map[string]rest.Storage{"": accounts, "/token": accounts.Token})
	return nil
}

// addPlain adds the resources that need nothing but storage.
func (g *coreGroup) addPlain(r resources, getter generic.RESTOptionsGetter) error {
	templates, err := podtemplatestore.NewREST(getter)
	if err != nil {
		return err
	}
	limits, err := limitrangestore.NewREST(getter)
	if err != nil {
		return err
	}
	volumes, volumeStatus, err := pvstore.NewREST(getter)
	if err != nil {
		return err
	}
	volumeClaims, volumeClaimStatus, err := pvcstore.NewREST(getter)
	if err != nil {
		return err
	}
	controllers, err := controllerstore.NewStorage(getter)
	if err != nil {
		return err
	}
	r.add("podtemplates", map[string]rest.Storage{"": templates})
	r.add("limitranges", map[string]rest.Storage{"": limits})
	r.add("persistentvolumes", map[string]rest.Storage{"": volumes, "/status": volumeStatus})
	r.add("persistentvolumeclaims", map[string]rest.Storage{"": volumeClaims, "/status": volumeClaimStatus})
	r.add("replicationcontrollers", map[string]rest.Storage{"": controllers.Controller, "/status": controllers.Status, "/scale": controllers.Scale})
	// No component has a health port of its own: they are all this process.
	r.add("componentstatuses", map[string]rest.Storage{"": componentstatus.NewStorage(func() map[string]componentstatus.Server { return nil })})
	return nil
}

// GroupName implements RESTStorageProvider.
func (g *coreGroup) GroupName() string { return api.GroupName }
