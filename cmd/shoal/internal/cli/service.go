package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// ServiceCmd is `shoal service`: where a service answers from outside.
type ServiceCmd struct {
	Namespaced

	Name string        `arg:"" help:"The name of the service."`
	URL  bool          `name:"url" help:"Print the URL only; open no browser."`
	Wait time.Duration `default:"30s" placeholder:"DURATION" help:"How long to wait for a pod that answers; 0 does not wait."`
}

// Help is the detail of `shoal service --help`.
func (*ServiceCmd) Help() string {
	return "Ports that do not look like HTTP are printed as HOST:PORT.\n\n" + examples(
		"# Open the page of service hw",
		"shoal service hw",
		"# Fetch it",
		"curl $(shoal service hw --url)")
}

// Run waits until the service has a ready pod and prints its addresses.
func (s *ServiceCmd) Run(ctx context.Context, streams genericiooptions.IOStreams) error {
	namespace, err := s.namespace(streams)
	if err != nil {
		return err
	}
	config, client, err := s.client(streams)
	if err != nil {
		return err
	}
	service, err := client.CoreV1().Services(namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := reachableFromOutside(service); err != nil {
		return err
	}
	if err := s.waitReady(ctx, streams, client, service); err != nil {
		return err
	}
	addresses := outsideAddresses(service, nodeHost(ctx, client, config))
	for _, address := range addresses {
		fmt.Fprintln(streams.Out, address)
	}
	if s.URL {
		return nil
	}
	for _, address := range addresses {
		if strings.HasPrefix(address, "http") {
			openBrowser(ctx, address)
			break
		}
	}
	return nil
}

// reachableFromOutside explains what to do about a service that has no address of
// its own outside and no port on the hosts.
func reachableFromOutside(service *corev1.Service) error {
	if ownHost(service) != "" {
		return nil
	}
	for _, port := range service.Spec.Ports {
		if port.NodePort != 0 {
			return nil
		}
	}
	return fmt.Errorf("service %q is of type %s and has no port on the hosts\n"+
		"Give it one: shoal patch service %s -n %s -p '{\"spec\":{\"type\":\"NodePort\"}}'",
		service.Name, service.Spec.Type, service.Name, service.Namespace)
}

// waitReady returns once a pod answers for the service, or says why none does.
func (s *ServiceCmd) waitReady(ctx context.Context, streams genericiooptions.IOStreams, client kubernetes.Interface, service *corev1.Service) error {
	if s.Wait <= 0 || len(service.Spec.Selector) == 0 {
		return nil
	}
	interrupt := ctx
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	told := false
	for {
		version, ready, err := anyReady(ctx, client, service)
		if ready || (err != nil && ctx.Err() == nil) {
			return err
		}
		if err == nil && !told {
			fmt.Fprintf(streams.ErrOut, "Waiting for a ready pod of service %s ...\n", service.Name)
			told = true
		}
		if err == nil {
			err = untilSliceChanges(ctx, client, service, version)
		}
		if interrupt.Err() != nil {
			return fmt.Errorf("wait for service %q: interrupted", service.Name)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no ready pod behind service %q after %s\nSee why: shoal get pods -n %s -l %s",
				service.Name, s.Wait, service.Namespace, metav1.FormatLabelSelector(metav1.SetAsLabelSelector(service.Spec.Selector)))
		}
		if err != nil {
			return err
		}
	}
}

func slicesOf(service *corev1.Service) string {
	return discoveryv1.LabelServiceName + "=" + service.Name
}

func anyReady(ctx context.Context, client kubernetes.Interface, service *corev1.Service) (string, bool, error) {
	list, err := client.DiscoveryV1().EndpointSlices(service.Namespace).List(ctx,
		metav1.ListOptions{LabelSelector: slicesOf(service)})
	if err != nil {
		return "", false, err
	}
	for i := range list.Items {
		if hasReady(&list.Items[i]) {
			return "", true, nil
		}
	}
	return list.ResourceVersion, false, nil
}

func hasReady(slice *discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(slice.Endpoints, func(endpoint discoveryv1.Endpoint) bool {
		return endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
	})
}

// untilSliceChanges returns after the first event, or when the watch ends.
func untilSliceChanges(ctx context.Context, client kubernetes.Interface, service *corev1.Service, version string) error {
	watch, err := client.DiscoveryV1().EndpointSlices(service.Namespace).Watch(ctx,
		metav1.ListOptions{LabelSelector: slicesOf(service), ResourceVersion: version})
	if err != nil {
		return err
	}
	defer watch.Stop()
	select {
	case <-watch.ResultChan():
	case <-ctx.Done():
	}
	return nil
}

// nodeHost is the address of a host that answers node ports: a ready node's,
// or the API server's if nodes may not be listed.
func nodeHost(ctx context.Context, client kubernetes.Interface, config *rest.Config) string {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err == nil {
		if host := hostOf(nodes.Items); host != "" {
			return host
		}
	}
	if server, err := url.Parse(config.Host); err == nil && server.Hostname() != "" {
		return server.Hostname()
	}
	return config.Host
}

// hostOf prefers the inside address of a ready node.
func hostOf(nodes []corev1.Node) string {
	for _, wantReady := range []bool{true, false} {
		for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
			for i := range nodes {
				if wantReady && !isReady(&nodes[i]) {
					continue
				}
				for _, address := range nodes[i].Status.Addresses {
					if address.Type == kind {
						return address.Address
					}
				}
			}
		}
	}
	return ""
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	})
}

// ownHost is the first address that a load balancer has for the service, or "".
func ownHost(service *corev1.Service) string {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return ""
	}
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if host := cmp.Or(ingress.IP, ingress.Hostname); host != "" {
			return host
		}
	}
	return ""
}

// outsideAddresses lists where a service answers, as URLs where it speaks HTTP: at
// its own address, or else at its node ports on host.
func outsideAddresses(service *corev1.Service, host string) []string {
	var addresses []string
	own := ownHost(service)
	for _, port := range service.Spec.Ports {
		at, number := own, port.Port
		if own == "" {
			at, number = host, port.NodePort
		}
		if number == 0 {
			continue
		}
		address := net.JoinHostPort(at, strconv.Itoa(int(number)))
		if scheme := schemeOf(&port); scheme != "" {
			address = scheme + "://" + address
		}
		addresses = append(addresses, address)
	}
	return addresses
}

// webPorts are the port numbers people run web servers on.
var webPorts = map[int32]string{
	80: "http", 3000: "http", 5000: "http", 8000: "http", 8008: "http", 8080: "http", 8081: "http",
	8888: "http", 9090: "http", 443: "https", 8443: "https",
}

// schemeOf says whether a port speaks HTTP or HTTPS: by its declared
// application protocol, else by its name, else by its number. It is empty for
// any other protocol.
func schemeOf(port *corev1.ServicePort) string {
	if port.Protocol != "" && port.Protocol != corev1.ProtocolTCP {
		return ""
	}
	if port.AppProtocol != nil {
		return schemeNamed(*port.AppProtocol)
	}
	if scheme := schemeNamed(port.Name); scheme != "" {
		return scheme
	}
	if scheme := webPorts[port.Port]; scheme != "" {
		return scheme
	}
	return webPorts[port.TargetPort.IntVal]
}

func schemeNamed(protocol string) string {
	protocol = strings.ToLower(protocol)
	switch {
	case protocol == "https" || strings.HasPrefix(protocol, "https-") || protocol == "kubernetes.io/wss":
		return "https"
	case protocol == "http" || protocol == "web" || strings.HasPrefix(protocol, "http-") || protocol == "kubernetes.io/ws":
		return "http"
	}
	return ""
}
