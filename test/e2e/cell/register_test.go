package cell

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "shoal/api/control/v1"
)

// TestRegister looks at what every peer says of every other.
func TestRegister(t *testing.T) {
	whole(t)
	for _, p := range all() {
		for _, q := range all() {
			node, err := p.kube.CoreV1().Nodes().Get(t.Context(), q.name, metav1.GetOptions{})
			ok(t, err)
			if err := describes(node, q); err != nil {
				t.Errorf("%s of %s: %v", p.name, q.name, err)
			}
		}
		status, err := p.status(t.Context())
		ok(t, err)
		if len(status.Peers) != nodes || status.Peer != p.name || len(status.Alarms) != 0 {
			t.Errorf("status of %s: %d peers, alarms %v", status.Peer, len(status.Peers), status.Alarms)
		}
		for _, s := range status.Peers {
			if s.State != v1.Alive || s.Version == "" || s.API == "" || s.Address == "" {
				t.Errorf("%s says of %s: %+v", p.name, s.Name, s)
			}
		}
		slices, err := p.kube.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
		ok(t, err)
		addresses := map[string]bool{}
		for _, s := range slices.Items {
			for _, e := range s.Endpoints {
				addresses[e.Addresses[0]] = true
			}
		}
		if len(addresses) != nodes {
			t.Errorf("the kubernetes service has the endpoints %v on %s", addresses, p.name)
		}
	}
}

// describes checks that a Node says what its host registered.
func describes(node *corev1.Node, p *peer) error {
	address, err := cell.Address(p.number)
	if err != nil {
		return err
	}
	internal := ""
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			internal = a.Address
		}
	}
	info := node.Status.NodeInfo
	switch {
	case internal != address.String():
		return fmt.Errorf("address %q, want %s", internal, address)
	case node.Status.Capacity.Cpu().IsZero() || node.Status.Allocatable.Memory().IsZero() || node.Status.Capacity.Pods().IsZero():
		return fmt.Errorf("capacity %v", node.Status.Capacity)
	case info.KubeletVersion == "" || info.KernelVersion == "" || info.ContainerRuntimeVersion == "":
		return fmt.Errorf("versions %+v", info)
	case len(node.Spec.PodCIDRs) == 0:
		return fmt.Errorf("no range of pod addresses")
	}
	return nil
}
