package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"shoal/api/loadbalancer/v1alpha1"
)

// balancerHosts is where in the lab's subnet the pools' addresses begin; peers
// and the machine are elsewhere.
const balancerHosts = 200

// TestLoadBalancerAddressMoves calls a service from this machine, which is on
// the hosts' link, at an address of a pool: also after the host died that
// answered for it.
func TestLoadBalancerAddressMoves(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	address := poolOfOne(t, ns, balancerHosts)
	balance(t, ns, corev1.ServiceExternalTrafficPolicyCluster)
	before := announcer(t, peers[4], ns, address, nil)

	// The pods are on other hosts than the one that will die.
	backends := others(before)[:2]
	for _, p := range backends {
		front(t, ns, p)
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

// TestDrainedHostHandsItsAddressesOver stops a host with its pods while it announces
// an address: another one does before that ends, and no call fails meanwhile.
func TestDrainedHostHandsItsAddressesOver(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	address := poolOfOne(t, ns, balancerHosts+2)
	balance(t, ns, corev1.ServiceExternalTrafficPolicyCluster)
	leaving := announcer(t, peers[4], ns, address, nil)
	// It is back before the namespace goes, which it may be the one to take away.
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), settleWithin)
		defer cancel()
		if err := cell.Start(ctx, leaving.number); err != nil {
			t.Error(err)
		}
	})
	backend := others(leaving)[0]
	front(t, ns, backend)
	backend.runs(t, ns, "front", 1)
	eventually(t, "its pod answers", func() error {
		_, err := fetch(t.Context(), "http://"+address.String()+"/", 1)
		return err
	})

	stopped := make(chan error, 1)
	go func() {
		_, err := cell.Output(t.Context(), leaving.number, "shoal", "stop", "--pods")
		stopped <- err
	}()
	calls := 0
	for done := false; !done; calls++ {
		select {
		case err := <-stopped:
			ok(t, err)
			done = true // and once more without it
		default:
		}
		if _, err := fetch(t.Context(), "http://"+address.String()+"/", 1); err != nil {
			t.Fatalf("call %d while %s is drained: %v", calls, leaving.name, err)
		}
	}
	// Nothing is waited for: it was taken over before the daemon ended.
	s, err := backend.kube.CoreV1().Services(ns).Get(t.Context(), "front", metav1.GetOptions{})
	ok(t, err)
	if said := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.Announced); said == nil || said.Message == leaving.name {
		t.Errorf("after %s stopped, %+v", leaving.name, s.Status.Conditions)
	}
	t.Logf("%d calls", calls)
}

// TestLocalLoadBalancer: with externalTrafficPolicy Local only hosts with a ready
// pod announce the address, and say that they are healthy.
func TestLocalLoadBalancer(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	address := poolOfOne(t, ns, balancerHosts+1)
	service := balance(t, ns, corev1.ServiceExternalTrafficPolicyLocal)
	eventually(t, "nobody can announce it", func() error {
		s, err := peers[5].kube.CoreV1().Services(ns).Get(t.Context(), "front", metav1.GetOptions{})
		if err == nil && !meta.IsStatusConditionFalse(s.Status.Conditions, v1alpha1.Announced) {
			err = fmt.Errorf("its conditions are %+v", s.Status.Conditions)
		}
		return err
	})
	backends := []*peer{peers[2], peers[4]}
	for _, p := range backends {
		front(t, ns, p)
	}
	peers[1].runs(t, ns, "front", len(backends))
	for _, p := range all() {
		eventually(t, p.name+" says which networks it is in", func() error {
			node, err := peers[1].kube.CoreV1().Nodes().Get(t.Context(), p.name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, link := range strings.Split(node.Annotations[v1alpha1.Links], ",") {
				if n, err := netip.ParsePrefix(link); err == nil && n.Contains(address) {
					return nil
				}
			}
			return fmt.Errorf("its annotations are %v", node.Annotations)
		})
	}
	healthy := func(with ...*peer) {
		t.Helper()
		for _, p := range all() {
			host, err := cell.Address(p.number)
			ok(t, err)
			want, count := http.StatusServiceUnavailable, `"localEndpoints": 0`
			if slices.Contains(with, p) {
				want, count = http.StatusOK, `"localEndpoints": 1`
			}
			eventually(t, fmt.Sprintf("%s says %d", p.name, want), func() error {
				status, body, err := health(t.Context(), netip.AddrPortFrom(host, uint16(service.Spec.HealthCheckNodePort)))
				if err == nil && (status != want || !strings.Contains(body, count)) {
					err = fmt.Errorf("%d: %s", status, body)
				}
				return err
			})
		}
	}
	healthy(backends...)
	who := announcer(t, peers[3], ns, address, nil)
	other := backends[0]
	if other == who {
		other = backends[1]
	}
	only := func(name string) func() error {
		return func() error {
			out, err := fetch(t.Context(), "http://"+address.String()+"/", 10)
			if err == nil && strings.Count(out, name) < 10 {
				err = fmt.Errorf("somebody else than %s answered: %s", name, out)
			}
			return err
		}
	}
	eventually(t, "the announcer's own pod answers", only("on-"+who.name))
	ok(t, who.kube.CoreV1().Pods(ns).Delete(t.Context(), "on-"+who.name, metav1.DeleteOptions{}))
	announcer(t, peers[1], ns, address, who)
	eventually(t, "the other host's pod answers", only("on-"+other.name))
	healthy(other)
}

func health(ctx context.Context, at netip.AddrPort) (status int, body string, err error) {
	client := &http.Client{Timeout: answerWithin, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/healthz", nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	read, err := io.ReadAll(response.Body)
	return response.StatusCode, string(read), errors.Join(err, response.Body.Close())
}

// poolOfOne makes a pool of one address of the lab's subnet, until the test ends.
func poolOfOne(t *testing.T, name string, host byte) netip.Addr {
	t.Helper()
	first, err := cell.Address(1)
	ok(t, err)
	bytes := first.As4()
	bytes[3] = host
	address := netip.AddrFrom4(bytes)
	pools := peers[2].objects.Resource(v1alpha1.Pools)
	_, err = pools.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "shoal.dev/v1alpha1", "kind": "AddressPool", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"addresses": []any{address.String()}},
	}}, metav1.CreateOptions{})
	ok(t, err)
	t.Cleanup(func() { ok(t, pools.Delete(context.Background(), name, metav1.DeleteOptions{})) })
	return address
}

// balance makes the service of the pods that front makes.
func balance(t *testing.T, ns string, policy corev1.ServiceExternalTrafficPolicy) *corev1.Service {
	t.Helper()
	s, err := peers[3].kube.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "front"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: policy,
			Selector: map[string]string{"app": "front"}, Ports: []corev1.ServicePort{{Port: 80}},
		},
	}, metav1.CreateOptions{})
	ok(t, err)
	return s
}

// front makes a pod on the peer.
func front(t *testing.T, ns string, p *peer) {
	t.Helper()
	_, err := p.kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "on-" + p.name, Labels: map[string]string{"app": "front"}},
		Spec:       corev1.PodSpec{NodeName: p.name, Containers: []corev1.Container{hello()}},
	}, metav1.CreateOptions{})
	ok(t, err)
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
