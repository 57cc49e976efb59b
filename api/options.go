package api

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/controlplane/reconcilers"
	kubefeatures "k8s.io/kubernetes/pkg/features"

	"shoal/api/hosts"
	"shoal/api/loadbalancer"
	"shoal/api/pki"
	apistorage "shoal/api/storage"
	"shoal/api/support"
	"shoal/store"
)

// Options says how to serve the API on this peer.
type Options struct {
	DB       *store.DB
	PKI      pki.Files
	Listener net.Listener
	// Advertise is this peer's address as pods and other hosts reach it.
	Advertise netip.Addr
	// NodeName keys the block of addresses and ports this peer draws from first.
	NodeName string
	// AgentPort is where agents serve logs, exec and stats on every host.
	AgentPort int
	// ServiceCIDR is where cluster IPs come from; ServiceCIDR6 is the second range,
	// of IPv6, not valid in a cell that has none.
	ServiceCIDR, ServiceCIDR6 netip.Prefix
	// Extra are further paths to serve, by prefix (ending in a slash), behind the
	// same authentication and authorization: as non-resource URLs. They count as
	// long-running, so a handler bounds time and concurrency itself.
	Extra  map[string]http.Handler
	Logger *slog.Logger

	// PodCIDR is what ClaimPodCIDR returned for this host. Its claim is looked
	// after; left out, it is not. PodCIDR6 is its range of IPv6, if it has one.
	PodCIDR, PodCIDR6 netip.Prefix
	// Cell is how versions that other peers issued are understood, zero on a
	// host alone.
	Cell apistorage.Cell
	// Members is what gossip knows of the other hosts, nil on a host alone.
	Members hosts.Members
	// Conflicts, if set, is what the store tells of names made twice.
	Conflicts *NameConflicts
}

// Defaults of a cell (design section 7).
var (
	DefaultServiceCIDR = netip.MustParsePrefix("10.0.0.0/16")
	// NodePortRange is Kubernetes' own.
	NodePortRange = utilnet.PortRange{Base: 30000, Size: 2768}
)

const (
	// issuer is the `iss` claim of service account tokens. It is the same on
	// every peer, so that a token issued by one is good at all.
	issuer = "https://kubernetes.default.svc.cluster.local"
	// eventTTL is Kubernetes' default.
	eventTTL = time.Hour
	// maxRequestsInFlight and maxMutatingInFlight bound concurrent short
	// requests on one peer; they are kube-apiserver's own defaults.
	maxRequestsInFlight, maxMutatingInFlight = 400, 200
)

// setFeatures turns off what only makes sense with several API servers over
// one etcd: identity leases cost a write every ten seconds and peers know each
// other by gossip. ShardedListAndWatch is what slices are cut with, and
// ContainerStopSignals (KEP-4960) what hosts have.
func setFeatures() error {
	return utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{
		string(features.APIServerIdentity):                   false,
		string(features.UnknownVersionInteroperabilityProxy): false,
		string(features.ShardedListAndWatch):                 true,
		string(kubefeatures.ContainerStopSignals):            true,
	})
}

// upstream translates o into kube-apiserver's own options.
func (o Options) upstream() (*options.ServerRunOptions, error) {
	host, port, err := net.SplitHostPort(o.Listener.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("read listener address: %w", err)
	}
	portNumber, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("read listener port: %w", err)
	}
	s := options.NewServerRunOptions()

	s.SecureServing.Listener = o.Listener
	s.SecureServing.BindAddress = net.ParseIP(host)
	s.SecureServing.BindPort = portNumber
	s.SecureServing.ServerCert.CertKey.CertFile = o.PKI.APIServer
	s.SecureServing.ServerCert.CertKey.KeyFile = o.PKI.APIServerKey
	s.GenericServerRunOptions.AdvertiseAddress = o.Advertise.AsSlice()
	s.GenericServerRunOptions.MaxRequestsInFlight = maxRequestsInFlight
	s.GenericServerRunOptions.MaxMutatingRequestsInFlight = maxMutatingInFlight

	s.ServiceClusterIPRanges = o.ServiceCIDR.String()
	if o.ServiceCIDR6.IsValid() {
		s.ServiceClusterIPRanges += "," + o.ServiceCIDR6.String()
	}
	s.ServiceNodePortRange = NodePortRange
	s.EndpointReconcilerType = string(reconcilers.NoneEndpointReconcilerType)
	s.AllowPrivileged = true
	s.EventTTL = eventTTL

	s.KubeletConfig.Port = uint(o.AgentPort)
	s.KubeletConfig.PreferredAddressTypes = []string{"InternalIP", "Hostname"}
	s.KubeletConfig.TLSClientConfig.CAFile = o.PKI.CA
	s.KubeletConfig.TLSClientConfig.CertFile = o.PKI.AgentClient
	s.KubeletConfig.TLSClientConfig.KeyFile = o.PKI.AgentClientKey

	s.Authentication.ClientCert.ClientCA = o.PKI.CA
	s.Authentication.RequestHeader.ClientCAFile = o.PKI.FrontProxyCA
	s.Authentication.RequestHeader.AllowedNames = []string{"front-proxy-client"}
	s.Authentication.RequestHeader.UsernameHeaders = []string{"X-Remote-User"}
	s.Authentication.RequestHeader.GroupHeaders = []string{"X-Remote-Group"}
	s.Authentication.RequestHeader.ExtraHeaderPrefixes = []string{"X-Remote-Extra-"}
	s.ProxyClientCertFile = o.PKI.FrontProxy
	s.ProxyClientKeyFile = o.PKI.FrontProxyKey
	s.Authentication.ServiceAccounts.Issuers = []string{issuer}
	s.Authentication.ServiceAccounts.KeyFiles = []string{o.PKI.ServiceAccount}
	s.ServiceAccountSigningKeyFile = o.PKI.ServiceAccountKey
	s.Authorization.Modes = []string{"Node", "RBAC"}

	// Node conditions become taints by the node controllers' work, and a cell
	// learns of a dead host by gossip: the admission plug-in would leave every
	// new node tainted not-ready until a controller of another design lifts it.
	s.Admission.GenericAdmission.DisablePlugins = []string{"TaintNodesByCondition"}
	s.Admission.GenericAdmission.EnablePlugins = []string{"NodeRestriction"}
	support.Register(s.Admission.GenericAdmission.Plugins)
	loadbalancer.Register(s.Admission.GenericAdmission.Plugins)
	s.Admission.GenericAdmission.RecommendedPluginOrder = append([]string{support.PluginName, loadbalancer.PluginName}, s.Admission.GenericAdmission.RecommendedPluginOrder...)

	// Metrics keep upstream's defaults; applying none logs an error for it.
	s.Metrics = nil

	// Never dialled: the storage behind every resource is replaced.
	s.Etcd.StorageConfig.Transport.ServerList = []string{"http://127.0.0.1:0"}
	s.Etcd.StorageConfig.Prefix = "/registry"
	s.Etcd.EnableWatchCache = false
	s.Etcd.SkipHealthEndpoints = true
	// Object counts are a metric only; listing every key each minute is not idle.
	s.Etcd.StorageConfig.CountMetricPollPeriod = 0
	// Request limits are the two numbers above. Priority and fairness costs two
	// controllers, a config watch and a queue per request, and its estimates
	// assume all requests of a cluster pass through few servers.
	s.Features.EnablePriorityAndFairness = false
	return s, nil
}
