package cell

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"shoal/api/loadbalancer/v1alpha1"
)

// balancerHosts is where in the lab's subnet the pool's addresses begin; peers
// and the machine are elsewhere.
const balancerHosts = 200

// TestLoadBalancerAddressMoves calls a service from this machine, which is on
// the hosts' link, at an address of a pool: also after the host died that
// answered for it.
func TestLoadBalancerAddressMoves(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	first, err := cell.Address(1)
	ok(t, err)
	bytes := first.As4()
	bytes[3] = balancerHosts
	address := netip.AddrFrom4(bytes)
	pools := peers[2].objects.Resource(v1alpha1.Pools)
	_, err = pools.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "shoal.dev/v1alpha1", "kind": "AddressPool", "metadata": map[string]any{"name": ns},
		"spec": map[string]any{"addresses": []any{address.String()}},
	}}, metav1.CreateOptions{})
	ok(t, err)
	t.Cleanup(func() { ok(t, pools.Delete(context.Background(), ns, metav1.DeleteOptions{})) })
	_, err = peers[3].kube.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "front"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "front"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	ok(t, err)
	before := announcer(t, peers[4], ns, address, nil)

	// The pods are on other hosts than the one that will die.
	var backends []*peer
	for _, p := range others(before) {
		if len(backends) == 2 {
			break
		}
		backends = append(backends, p)
		_, err := p.kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "on-" + p.name, Labels: map[string]string{"app": "front"}},
			Spec:       corev1.PodSpec{NodeName: p.name, Containers: []corev1.Container{hello()}},
		}, metav1.CreateOptions{})
		ok(t, err)
	}
	survivor := backends[0]
	survivor.runs(t, ns, "front", len(backends))
	answered := func() error {
		out, err := fetch(t.Context(), "http://"+address.String()+"/", callsToAll)
		if err != nil {
			return err
		}
		for _, p := range backends {
			if !strings.Contains(out, "on-"+p.name) {
				return fmt.Errorf("no pod on %s answered any of %d calls", p.name, callsToAll)
			}
		}
		return nil
	}
	eventually(t, "both pods answer at the address", answered)

	ok(t, cell.Kill(within(t), before.number))
	took := eventually(t, "they answer with their announcer dead", answered)
	after := announcer(t, survivor, ns, address, before)
	t.Logf("%s answered for %s; %s after it was killed both pods answered through %s", before.name, address, took, after.name)
	ok(t, cell.Start(within(t), before.number))
	whole(t)
	eventually(t, "they answer with all back", answered)

	ok(t, survivor.kube.CoreV1().Services(ns).Delete(t.Context(), "front", metav1.DeleteOptions{}))
	eventually(t, "nobody answers for an address that no service has", func() error {
		if out, err := fetch(t.Context(), "http://"+address.String()+"/", 1); err == nil {
			return errors.New(out)
		}
		return nil
	})
}

// announcer waits until the service has the address and a host says that it
// answers for it, which is not the one given.
func announcer(t *testing.T, ask *peer, ns string, address netip.Addr, not *peer) (host *peer) {
	t.Helper()
	eventually(t, "a host announces "+address.String(), func() error {
		s, err := ask.kube.CoreV1().Services(ns).Get(t.Context(), "front", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if in := s.Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != address.String() {
			return fmt.Errorf("it has %+v: %+v", in, s.Status.Conditions)
		}
		said := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.Announced)
		if said == nil {
			return errors.New("no host says so")
		}
		for _, p := range all() {
			if p.name == said.Message && p != not {
				host = p
				return nil
			}
		}
		return errors.New("it is still " + said.Message)
	})
	return host
}
