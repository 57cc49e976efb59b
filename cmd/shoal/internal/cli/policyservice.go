package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"shoal/netdp/dns/kubedns"
	"shoal/netdp/policy"
)

// A call to an address of a service is one to its backends by the time policies are
// asked, so these are judged.

// serviceAt is the service that is called at an address; nil: none.
func serviceAt(ctx context.Context, client kubernetes.Interface, addr netip.Addr) (*corev1.Service, error) {
	services, err := client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range services.Items {
		if slices.Contains(serviceAddrs(&services.Items[i]), addr) {
			return &services.Items[i], nil
		}
	}
	return nil, nil
}

func serviceAddrs(svc *corev1.Service) (out []netip.Addr) {
	texts := slices.Concat(svc.Spec.ClusterIPs, svc.Spec.ExternalIPs)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		texts = append(texts, in.IP)
	}
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil { // else a headless one's "None", or a name
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// isOwnDNS tells whether each pod's own host answers as this service.
func isOwnDNS(svc *corev1.Service) bool {
	return svc.Namespace == kubedns.Namespace && svc.Name == kubedns.Name && len(svc.Spec.Selector) == 0
}

// servicePort reads PORT[/PROTOCOL], by the service's number or name.
func servicePort(svc *corev1.Service, text string) (corev1.ServicePort, error) {
	name, proto, _ := strings.Cut(text, "/")
	protocol := corev1.Protocol(strings.ToUpper(proto))
	number, _ := strconv.ParseUint(name, 10, 16) // else a name
	if protocol == "" && number > 0 {
		protocol = corev1.ProtocolTCP
	}
	var has []string
	for _, p := range svc.Spec.Ports {
		if (p.Name == name || number > 0 && uint64(p.Port) == number) && (protocol == "" || p.Protocol == protocol) {
			return p, nil
		}
		has = append(has, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return corev1.ServicePort{}, fmt.Errorf("the address is of service %s/%s, which has no port %s: nobody answers there, whatever policies say; the ports it has: %s",
		svc.Namespace, svc.Name, text, orNone(has))
}

// serviceBackend is a ready endpoint and the port that is called there.
type serviceBackend struct {
	namedParty
	port policy.Port
}

// serviceBackends are those of one port, of the family that was called.
func serviceBackends(ctx context.Context, client kubernetes.Interface, svc *corev1.Service, port corev1.ServicePort, v4 bool) (out []serviceBackend, err error) {
	list, err := client.DiscoveryV1().EndpointSlices(svc.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + svc.Name})
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods(svc.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, slice := range list.Items {
		i := slices.IndexFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && (p.Name == nil && port.Name == "" || p.Name != nil && *p.Name == port.Name)
		})
		if i < 0 {
			continue
		}
		at := policy.Port{Protocol: port.Protocol, Number: uint16(*slice.Ports[i].Port)}
		for _, e := range slice.Endpoints {
			if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			addr, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || addr.Unmap().Is4() != v4 {
				continue
			}
			b, err := endpointParty(ctx, client, pods.Items, e, addr.Unmap())
			if err != nil {
				return nil, err
			}
			out = append(out, serviceBackend{b, at})
		}
	}
	return out, nil
}

func endpointParty(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod, e discoveryv1.Endpoint, addr netip.Addr) (p namedParty, err error) {
	i := -1
	if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		i = slices.IndexFunc(pods, func(pod corev1.Pod) bool { return pod.Name == e.TargetRef.Name })
	}
	if i >= 0 {
		p = partyOf(&pods[i])
	} else if p, err = partyAt(ctx, client, addr); err != nil {
		return p, err
	}
	p.Addr, p.given = addr, true
	return p, nil
}

// testService judges a call to a service by its backends, and shows one that may be
// called and one that may not.
func (p *PolicyTestCmd) testService(ctx context.Context, streams genericiooptions.IOStreams, client kubernetes.Interface, from, to namedParty) error {
	svc := to.service
	port, err := servicePort(svc, p.Port)
	if err != nil {
		return err
	}
	backends, err := serviceBackends(ctx, client, svc, port, to.Addr.Is4())
	if err != nil {
		return err
	}
	name := fmt.Sprintf("service %s/%s, port %d/%s", svc.Namespace, svc.Name, port.Port, port.Protocol)
	if len(backends) == 0 {
		fmt.Fprintf(streams.Out, "refused: %s has no ready endpoint, so policies are not asked\n", name)
		return cmdutil.ErrExit
	}
	parties := []namedParty{from}
	for _, b := range backends {
		parties = append(parties, b.namedParty)
	}
	cell, err := policiesOf(ctx, client, parties...)
	if err != nil {
		return err
	}
	verdicts, allowed := make([]policy.Verdict, len(backends)), 0
	for i, b := range backends {
		verdicts[i] = cell.Explain(from.inFamilyOf(b.namedParty).Party, b.Party, b.port)
		if verdicts[i].Allowed {
			allowed++
		}
	}
	fmt.Fprintf(streams.Out, "%s leads to its backends, and policies are asked about these: %d of %d may be called\n", name, allowed, len(backends))
	for _, which := range []bool{true, false} {
		i := slices.IndexFunc(verdicts, func(v policy.Verdict) bool { return v.Allowed == which })
		if i < 0 {
			continue
		}
		fmt.Fprintln(streams.Out)
		printVerdict(streams.Out, from, backends[i].namedParty, backends[i].port, verdicts[i])
		printUnenforced(ctx, streams.Out, client, from, backends[i].namedParty)
	}
	if allowed < len(backends) {
		return cmdutil.ErrExit
	}
	return nil
}
