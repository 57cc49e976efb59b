package flows

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	v1 "shoal/api/control/v1"
)

// Indexes by address and by uid.
const (
	byAddress = "shoal-address"
	byUID     = "shoal-uid"
)

// Names puts names to addresses, from what the informers know.
type Names struct {
	pods, nodes cache.Indexer
}

// NewNames gives the informers the indexes it needs; others start them.
func NewNames(factory informers.SharedInformerFactory) (*Names, error) {
	pods, nodes := factory.Core().V1().Pods().Informer(), factory.Core().V1().Nodes().Informer()
	if err := pods.AddIndexers(cache.Indexers{byAddress: podAddresses, byUID: podUID}); err != nil {
		return nil, fmt.Errorf("index pods by address: %w", err)
	}
	if err := nodes.AddIndexers(cache.Indexers{byAddress: nodeAddresses}); err != nil {
		return nil, fmt.Errorf("index nodes by address: %w", err)
	}
	return &Names{pods: pods.GetIndexer(), nodes: nodes.GetIndexer()}, nil
}

// podAddresses are a pod's own, while it runs: the host's are the node's.
func podAddresses(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil, nil
	}
	out := make([]string, 0, len(pod.Status.PodIPs))
	for _, ip := range pod.Status.PodIPs {
		out = append(out, ip.IP)
	}
	return out, nil
}

func podUID(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	return []string{string(pod.UID)}, nil
}

func nodeAddresses(obj any) ([]string, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return nil, nil
	}
	var out []string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			out = append(out, a.Address)
		}
	}
	return out, nil
}

// End is a side of a flow with its names.
func (n *Names) End(at netip.AddrPort) v1.FlowEnd {
	if !at.Addr().IsValid() {
		return v1.FlowEnd{}
	}
	end := v1.FlowEnd{Address: at.String()}
	if at.Port() == 0 {
		end.Address = at.Addr().String()
	}
	ip := at.Addr().String()
	if pod := first[*corev1.Pod](n.pods, byAddress, ip); pod != nil {
		end.Pod = pod.Namespace + "/" + pod.Name
	} else if node := first[*corev1.Node](n.nodes, byAddress, ip); node != nil {
		end.Node = node.Name
	}
	return end
}

// Pod is namespace/name, empty for an unknown uid.
func (n *Names) Pod(uid string) string {
	pod := first[*corev1.Pod](n.pods, byUID, uid)
	if pod == nil {
		return ""
	}
	return pod.Namespace + "/" + pod.Name
}

func first[T any](indexer cache.Indexer, index, value string) (none T) {
	objs, err := indexer.ByIndex(index, value)
	if err != nil {
		return none
	}
	for _, obj := range objs {
		if t, ok := obj.(T); ok {
			return t
		}
	}
	return none
}
