package services

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/netdp"
)

const (
	randomServices = 12
	randomNodes    = 4 // "node-0" is this host
)

var changesFor = flag.Duration("changes.for", 0, "how long objects are changed at random; 0: a few rounds")

// chaos changes objects at random.
type chaos struct {
	*rand.Rand
	t      *testing.T
	client *fake.Clientset
	alive  []string // of the other hosts
}

func randomPlace(failed map[string]bool) Place {
	return Place{Node: "test", Zone: "zone-0", Failed: func(n string) bool { return failed[n] }}
}

func (c *chaos) pick(all ...string) string { return all[c.IntN(len(all))] }

func (c *chaos) node() string {
	return c.pick("test", "node-1", "node-2", "node-3")
}

// service has addresses of its own, so that none waits for another.
func (c *chaos) service(n int) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Name = fmt.Sprint("service-", n)
		s.Spec.ClusterIP = fmt.Sprintf("10.0.1.%d", n)
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		if c.IntN(2) == 0 {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol)
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, fmt.Sprintf("fd00::%d", n))
		}
		if c.IntN(8) == 0 {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, nil
		}
		if c.IntN(2) == 0 {
			s.Spec.Ports[0].NodePort = int32(30100 + n)
		}
		if c.IntN(2) == 0 {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP})
		}
		if c.IntN(3) == 0 {
			s.Spec.ExternalIPs = []string{fmt.Sprintf("203.0.113.%d", n)}
		}
		if c.IntN(2) == 0 {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.114.%d", n)}}
		}
		for _, i := range c.Perm(4)[:c.IntN(3)] {
			s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges,
				[]string{"0.0.0.0/0", "198.18.0.0/15", "192.0.2.1/32", "2001:db8::/32"}[i])
		}
		if c.IntN(2) == 0 {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(1 + c.IntN(100)))}}
		}
		if c.IntN(3) == 0 {
			s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
		}
		if c.IntN(3) == 0 {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	})
}

func (c *chaos) slice(n, part int) *discoveryv1.EndpointSlice {
	var endpoints []discoveryv1.Endpoint
	hints := c.IntN(3)
	address, family := "10.64.%d.%d", discoveryv1.AddressTypeIPv4
	if part == 2 {
		address, family = "fd01::%d:%d", discoveryv1.AddressTypeIPv6
	}
	for i := range c.IntN(8) {
		ep := on(c.node(), endpoint(fmt.Sprintf(address, n, 10*part+i), c.pick("ready serving", "ready serving", "serving terminating", "terminating", "")))
		switch hints {
		case 1:
			ep = hinted(c.node(), ep)
		case 2:
			ep = zoned(c.pick("zone-0", "zone-1"), ep)
		}
		endpoints = append(endpoints, ep)
	}
	s := slice(endpoints...)
	s.Name, s.AddressType = fmt.Sprintf("service-%d-%d", n, part), family
	s.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("service-", n)}
	s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr("udp"), Protocol: ptr(corev1.ProtocolUDP), Port: ptr(int32(5353))})
	return s
}

func (c *chaos) pod(n int) *corev1.Pod {
	p := withPorts(corev1.ContainerPort{HostPort: int32(8000 + n), ContainerPort: 80, HostIP: c.pick("", "192.0.2.1", "127.0.0.1")})
	p.Name = fmt.Sprint("pod-", n)
	p.Status.PodIP = fmt.Sprintf("10.64.200.%d", n)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	p.Status.Phase = []corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodFailed}[c.IntN(3)]
	return p
}

// step is one change of one object, or of who is alive.
func (c *chaos) step(r *running) {
	ctx := c.t.Context()
	n := c.IntN(randomServices)
	svcs, slcs, pods := c.client.CoreV1().Services("default"), c.client.DiscoveryV1().EndpointSlices("default"), c.client.CoreV1().Pods("default")
	switch what := c.IntN(20); {
	case what < 6:
		want := c.service(n)
		_, err := svcs.Update(ctx, want, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = svcs.Create(ctx, want, metav1.CreateOptions{})
		}
		r.must(nil, err)
	case what < 7:
		r.must(nil, ignoreMissing(svcs.Delete(ctx, fmt.Sprint("service-", n), metav1.DeleteOptions{})))
	case what < 14:
		want := c.slice(n, c.IntN(3))
		_, err := slcs.Update(ctx, want, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = slcs.Create(ctx, want, metav1.CreateOptions{})
		}
		r.must(nil, err)
	case what < 15:
		r.must(nil, ignoreMissing(slcs.Delete(ctx, fmt.Sprintf("service-%d-%d", n, c.IntN(3)), metav1.DeleteOptions{})))
	case what < 17:
		want := c.pod(n)
		_, err := pods.Update(ctx, want, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = pods.Create(ctx, want, metav1.CreateOptions{})
		}
		r.must(nil, err)
	case what < 18:
		r.must(nil, ignoreMissing(pods.Delete(ctx, fmt.Sprint("pod-", n), metav1.DeleteOptions{})))
	default:
		c.alive = nil
		for i := 1; i < randomNodes; i++ {
			if c.IntN(3) > 0 {
				c.alive = append(c.alive, fmt.Sprint("node-", i))
			}
		}
		r.members.set(c.alive...)
	}
}

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// want is what the kernel should hold, from the objects that there are.
func (c *chaos) want() string {
	ctx := c.t.Context()
	failed := map[string]bool{"node-1": true, "node-2": true, "node-3": true}
	for _, name := range c.alive {
		delete(failed, name)
	}
	svcs, err := c.client.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	slcs, err := c.client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	pods, err := c.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var all []netdp.Service
	for i := range svcs.Items {
		var own []*discoveryv1.EndpointSlice
		for j := range slcs.Items {
			if slcs.Items[j].Labels[discoveryv1.LabelServiceName] == svcs.Items[i].Name {
				own = append(own, &slcs.Items[j])
			}
		}
		all = append(all, Translate(&svcs.Items[i], own, randomPlace(failed))...)
	}
	for i := range pods.Items {
		all = append(all, HostPorts(&pods.Items[i], []netip.Addr{netip.MustParseAddr("192.0.2.1")})...)
	}
	return render(each(all))
}

// each is one service for each address, as KernelServices lists them.
func each(services []netdp.Service) []netdp.Service {
	var out []netdp.Service
	for _, s := range services {
		slices.SortFunc(s.Backends, func(a, b netdp.Backend) int { return a.Addr.Compare(b.Addr) })
		slices.SortFunc(s.Sources, netip.Prefix.Compare)
		for _, f := range s.Frontends {
			one := s
			one.Frontends = []netdp.Frontend{f}
			one.LocalOutside = s.LocalOutside && (f.Outside || !f.Addr.IsValid() || f.Addr == netdp.NodePortIPv6)
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b netdp.Service) int {
		fa, fb := a.Frontends[0], b.Frontends[0]
		return cmp.Or(fa.Addr.Compare(fb.Addr), cmp.Compare(fa.Port, fb.Port), cmp.Compare(a.Proto, b.Proto))
	})
	return out
}

// TestRandomObjects changes services, endpoints, pods and hosts at random,
// restarts the daemon now and then, and compares the kernel's maps with the
// objects, entry by entry.
func TestRandomObjects(t *testing.T) {
	const rounds, steps = 25, 40
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	opts := options(t)
	opts.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	here := node("test", corev1.ConditionTrue, "KubeletReady")
	here.Labels = map[string]string{corev1.LabelTopologyZone: "zone-0"}
	objects := []runtime.Object{here}
	for i := 1; i < randomNodes; i++ {
		// What their Nodes say is stale: gossip decides.
		objects = append(objects, node(fmt.Sprint("node-", i), corev1.ConditionUnknown, "NodeStatusUnknown"))
	}
	c := &chaos{Rand: rand.New(rand.NewPCG(seed, 1)), t: t, client: fake.NewClientset(objects...)}
	r := start(t, opts, c.client)
	defer func() {
		r.stop()
		r.must(nil, r.dp.Remove())
	}()
	for round, began := 0, time.Now(); round < rounds || time.Since(began) < *changesFor; round++ {
		for range steps {
			c.step(r)
		}
		if c.IntN(4) == 0 {
			r.stop()
			r.must(nil, r.dp.Close())
			for range 5 {
				c.step(r) // while nobody watches
			}
			r = start(t, opts, c.client, c.alive...)
		}
		r.reaches(c.want())
	}
}
