package cli

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"shoal/netdp/policy"
)

// partyOutside is the world outside the cell.
const partyOutside = "outside"

// namedParty is a party with the words for it.
type namedParty struct {
	policy.Party
	name string
	// given says that the user gave its address, which settles the family.
	given bool
	// service is the one that is called at the address, if any.
	service *corev1.Service
}

// findParty finds the pod or address that is meant. An address of a pod is that
// pod, one of a node is that node.
func findParty(ctx context.Context, client kubernetes.Interface, namespace, text string) (namedParty, error) {
	if text == partyOutside {
		return namedParty{name: "the world outside"}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		p, err := partyAt(ctx, client, addr.Unmap())
		p.Addr, p.given = addr.Unmap(), true
		return p, err
	}
	name := text
	if ns, rest, ok := strings.Cut(text, "/"); ok {
		namespace, name = ns, rest
	}
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return namedParty{}, err
	}
	return partyOf(pod), nil
}

// partyOf has the first of the pod's addresses, none of one that has none yet:
// as outside.
func partyOf(pod *corev1.Pod) namedParty {
	p := namedParty{Party: policy.Party{Pod: pod}, name: "pod " + pod.Namespace + "/" + pod.Name}
	if pod.Spec.HostNetwork {
		p.Node = pod.Spec.NodeName
	}
	if addrs := podAddrs(pod); len(addrs) > 0 {
		p.Addr = addrs[0]
	}
	return p
}

// podAddrs are the addresses of both families that a pod calls from.
func podAddrs(pod *corev1.Pod) (out []netip.Addr) {
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	if pod.Spec.HostNetwork {
		texts = []string{pod.Status.HostIP}
		for _, ip := range pod.Status.HostIPs {
			texts = append(texts, ip.IP)
		}
	}
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && !slices.Contains(out, addr.Unmap()) {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// inFamilyOf gives a pod that was named the address by which it talks to the
// address that was given for the other end.
func (p namedParty) inFamilyOf(other namedParty) namedParty {
	if p.Pod == nil || p.given || !other.given {
		return p
	}
	for _, addr := range podAddrs(p.Pod) {
		if addr.Is4() == other.Addr.Is4() {
			p.Addr = addr
			break
		}
	}
	return p
}

// partyAt finds whose address it is: a pod's, a node's or a service's. The field status.podIP has one family alone,
// so all pods are looked at.
func partyAt(ctx context.Context, client kubernetes.Interface, addr netip.Addr) (namedParty, error) {
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return namedParty{}, err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed; !ended &&
			!pod.Spec.HostNetwork && slices.Contains(podAddrs(pod), addr) {
			return partyOf(pod), nil
		}
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return namedParty{}, err
	}
	for i := range nodes.Items {
		if node := &nodes.Items[i]; slices.Contains(nodeAddrs(node), addr) {
			return namedParty{Party: policy.Party{Node: node.Name}, name: "node " + node.Name}, nil
		}
	}
	svc, err := serviceAt(ctx, client, addr)
	if err != nil {
		return namedParty{}, err
	}
	if svc != nil && isOwnDNS(svc) {
		return namedParty{Party: policy.Party{OwnHost: true}, name: "the cluster DNS", service: svc}, nil
	}
	if svc != nil {
		return namedParty{name: addr.String(), service: svc}, nil
	}
	return namedParty{name: addr.String()}, nil
}

// nodeAddrs are those of a node as far as the API has them: what it reports, and
// the first address of its range for pods, at which its DNS server listens.
func nodeAddrs(node *corev1.Node) (out []netip.Addr) {
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil { // else a name
			out = append(out, addr.Unmap())
		}
	}
	for _, text := range node.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Addr().Is4() {
			out = append(out, prefix.Masked().Addr())
		}
	}
	return out
}
