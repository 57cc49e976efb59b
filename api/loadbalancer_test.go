package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"

	"shoal/api"
	"shoal/api/claims"
	"shoal/api/loadbalancer"
	"shoal/api/loadbalancer/v1alpha1"
	"shoal/store"
)

const addressClaims = "/shoal/claims/loadbalancers/"

func poolClient(t *testing.T) dynamic.ResourceInterface {
	t.Helper()
	objects, err := dynamic.NewForConfig(peer.ClientConfig("pools"))
	if err != nil {
		t.Fatal(err)
	}
	return objects.Resource(v1alpha1.Pools)
}

func poolObject(name string, addresses ...any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "shoal.dev/v1alpha1", "kind": "AddressPool",
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"addresses": addresses, "serviceSelector": map[string]any{"matchLabels": map[string]any{"pool": name}}},
	}}
}

// makePool makes a pool for services with the label pool=NAME, and takes it away
// after the test.
func makePool(t *testing.T, name string, addresses ...any) {
	t.Helper()
	pools := poolClient(t)
	eventually(t, "the kind AddressPool", func(ctx context.Context) bool {
		_, err := pools.Create(ctx, poolObject(name, addresses...), metav1.CreateOptions{})
		return err == nil
	})
	t.Cleanup(func() {
		if err := pools.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func balanced(name, pool string, edit ...func(*corev1.Service)) *corev1.Service {
	s := nodePortService(name, 0)
	s.Labels = map[string]string{"pool": pool}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	for _, e := range edit {
		e(s)
	}
	return s
}

// makeService makes a service, and takes it away after the test.
func makeService(t *testing.T, s *corev1.Service) {
	t.Helper()
	services := peer.Client.CoreV1().Services("default")
	if _, err := services.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := services.Delete(context.Background(), s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// becomes waits until a service's addresses and the reason of its condition are
// as wanted, and returns it.
func becomes(t *testing.T, name, addresses, reason string) *corev1.Service {
	t.Helper()
	var got string
	var service *corev1.Service
	defer func() {
		if t.Failed() {
			t.Logf("it has %s", got)
		}
	}()
	eventually(t, fmt.Sprintf("%s with %q, %s", name, addresses, reason), func(ctx context.Context) bool {
		s, err := peer.Client.CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			got = err.Error()
			return false
		}
		service = s
		why := ""
		if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.AddressAssigned); c != nil {
			why = c.Reason
		}
		got = fmt.Sprintf("%s, %s", addressesIn(s), why)
		return addressesIn(s) == addresses && why == reason
	})
	return service
}

func addressesIn(s *corev1.Service) string {
	var all []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		text := in.IP
		if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
			text += " (not a VIP)"
		}
		all = append(all, text)
	}
	return strings.Join(all, ",")
}

func hasClaim(address string) bool {
	_, _, err := peer.DB.Get(addressClaims+address, store.Latest)
	return err == nil
}

func TestLoadBalancerAddresses(t *testing.T) {
	makePool(t, "two", "192.0.2.1-192.0.2.2")
	wants := func(a string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerIP = a }
	}
	services := peer.Client.CoreV1().Services("default")
	makeService(t, balanced("lb-one", "two", wants("192.0.2.2")))
	becomes(t, "lb-one", "192.0.2.2", loadbalancer.ReasonAssigned)
	makeService(t, balanced("lb-same", "two", wants("192.0.2.2")))
	becomes(t, "lb-same", "", loadbalancer.ReasonTaken)
	awaitEvent(t, "default", "lb-same", loadbalancer.ReasonTaken, "default/lb-one")
	makeService(t, balanced("lb-any", "two"))
	becomes(t, "lb-any", "192.0.2.1", loadbalancer.ReasonAssigned)
	makeService(t, balanced("lb-late", "two"))
	becomes(t, "lb-late", "", loadbalancer.ReasonEmpty)
	awaitEvent(t, "default", "lb-late", loadbalancer.ReasonEmpty, "AddressPool two")
	makeService(t, balanced("lb-elsewhere", "two", wants("198.51.100.1")))
	becomes(t, "lb-elsewhere", "", loadbalancer.ReasonNotInPool)
	makeService(t, balanced("lb-lost", "no-such-pool"))
	becomes(t, "lb-lost", "", loadbalancer.ReasonNoPool)
	other := "example.org/other"
	makeService(t, balanced("lb-other", "two", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other }))

	eventually(t, "the pool counts", func(ctx context.Context) bool {
		o, err := poolClient(t).Get(ctx, "two", metav1.GetOptions{})
		if err != nil {
			return false
		}
		assigned, _, _ := unstructured.NestedInt64(o.Object, "status", "assigned")
		free, is, _ := unstructured.NestedInt64(o.Object, "status", "free")
		return assigned == 2 && is && free == 0
	})

	// One that goes makes room, for whoever waits for it in particular or at all.
	if err := services.Delete(t.Context(), "lb-one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := services.Delete(t.Context(), "lb-late", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(t, "lb-same", "192.0.2.2", loadbalancer.ReasonAssigned)
	change(t, "lb-any", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	becomes(t, "lb-any", "", "")
	eventually(t, "the claim of what is of another type goes", func(context.Context) bool { return !hasClaim("192.0.2.1") })

	// A pool that grows serves who waits; one that has the address no more takes it.
	change(t, "lb-any", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
	becomes(t, "lb-any", "192.0.2.1", loadbalancer.ReasonAssigned)
	makeService(t, balanced("lb-more", "two"))
	becomes(t, "lb-more", "", loadbalancer.ReasonEmpty)
	patch := []byte(`{"spec":{"addresses":["192.0.2.2","192.0.2.8/31"]}}`)
	if _, err := poolClient(t).Patch(t.Context(), "two", "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both have the new addresses", func(ctx context.Context) bool {
		a, err1 := services.Get(ctx, "lb-any", metav1.GetOptions{})
		b, err2 := services.Get(ctx, "lb-more", metav1.GetOptions{})
		if err1 != nil || err2 != nil {
			return false
		}
		have := addressesIn(a) + " " + addressesIn(b)
		return have == "192.0.2.8 192.0.2.9" || have == "192.0.2.9 192.0.2.8"
	})
	becomes(t, "lb-same", "192.0.2.2", loadbalancer.ReasonAssigned)
	if hasClaim("192.0.2.1") {
		t.Error("the claim on an address that no pool has any more is still there")
	}
	if s, err := services.Get(t.Context(), "lb-other", metav1.GetOptions{}); err != nil || len(s.Status.LoadBalancer.Ingress) > 0 || len(s.Status.Conditions) > 0 {
		t.Errorf("a service of another class has %+v (%v)", s.Status, err)
	}
}

// TestLoadBalancerKeepsAddressOfEndingService: an address that hosts still forward and announce
// is nobody else's.
func TestLoadBalancerKeepsAddressOfEndingService(t *testing.T) {
	makePool(t, "ending", "192.0.2.160")
	services := peer.Client.CoreV1().Services("default")
	makeService(t, balanced("lb-ending", "ending", func(s *corev1.Service) { s.Finalizers = []string{"example.org/held"} }))
	t.Cleanup(func() { // a failed test leaves nothing behind
		_, err := services.Patch(context.Background(), "lb-ending", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	becomes(t, "lb-ending", "192.0.2.160", loadbalancer.ReasonAssigned)
	if err := services.Delete(t.Context(), "lb-ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	makeService(t, balanced("lb-next", "ending"))
	becomes(t, "lb-next", "", loadbalancer.ReasonEmpty)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if owner := claimsBelow(t, addressClaims+"192.0.2.160")["192.0.2.160"]; !strings.Contains(owner, "default/lb-ending ") {
			t.Fatalf("the claim of a service that a finalizer holds is %q", owner)
		}
	}
	becomes(t, "lb-ending", "192.0.2.160", loadbalancer.ReasonAssigned)
	change(t, "lb-ending", func(s *corev1.Service) { s.Finalizers = nil })
	becomes(t, "lb-next", "192.0.2.160", loadbalancer.ReasonAssigned)
}

func change(t *testing.T, name string, edit func(*corev1.Service)) {
	t.Helper()
	services := peer.Client.CoreV1().Services("default")
	eventually(t, "change "+name, func(ctx context.Context) bool {
		s, err := services.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false
		}
		edit(s)
		_, err = services.Update(ctx, s, metav1.UpdateOptions{})
		return err == nil
	})
}

// TestAddressesOfOtherSoftware: what somebody else wrote into a status stays.
func TestAddressesOfOtherSoftware(t *testing.T) {
	makeService(t, balanced("lb-foreign", "no-such-pool"))
	s := becomes(t, "lb-foreign", "", loadbalancer.ReasonNoPool)
	mode := corev1.LoadBalancerIPModeVIP
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.77", IPMode: &mode}}
	if _, err := peer.Client.CoreV1().Services("default").UpdateStatus(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(t, "lb-foreign", "203.0.113.77", "")
	change(t, "lb-foreign", func(s *corev1.Service) { s.Annotations = map[string]string{"touched": "yes"} })
	becomes(t, "lb-foreign", "203.0.113.77", "")
}

func TestPoolsThatAreRefused(t *testing.T) {
	pools := poolClient(t)
	for _, bad := range []string{"nonsense", "192.0.2.1-", "192.0.2.0/40", "192.0.2.1-192.0.2.2-192.0.2.3"} {
		eventually(t, bad+" is refused", func(ctx context.Context) bool {
			_, err := pools.Create(ctx, poolObject("bad", bad), metav1.CreateOptions{})
			return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "FIRST-LAST")
		})
	}
	// What a schema cannot see.
	_, err := pools.Create(t.Context(), poolObject("bad", "192.0.2.1", "192.0.2.9-192.0.2.3"), metav1.CreateOptions{})
	if want := "spec.addresses[1]"; !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "write the lower address first: 192.0.2.3-192.0.2.9") {
		t.Errorf("a range that ends before it begins: %v", err)
	}
	makePool(t, "good", "192.0.2.1")
	if _, err := pools.Patch(t.Context(), "good", types.MergePatchType, []byte(`{"spec":{"addresses":["127.0.0.1"]}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("loopback in the place of what it had: %v", err)
	}
}

// TestOneAddressOnTwoSidesOfASplit: whose claim was born earlier keeps it,
// whatever age the services say they are.
func TestOneAddressOnTwoSidesOfASplit(t *testing.T) {
	makePool(t, "split", "192.0.2.100-192.0.2.110")
	makeService(t, balanced("lb-first", "split"))
	var first *corev1.Service
	eventually(t, "an address", func(ctx context.Context) bool {
		s, err := peer.Client.CoreV1().Services("default").Get(ctx, "lb-first", metav1.GetOptions{})
		first = s
		return err == nil && len(s.Status.LoadBalancer.Ingress) > 0
	})
	address := first.Status.LoadBalancer.Ingress[0].IP

	second := first.DeepCopy()
	second.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	name := "lb-second-" + string(first.UID[:8]) // of its own in each run
	second.Name, second.UID, second.ResourceVersion = name, types.UID(name), ""
	second.Spec.ClusterIP, second.Spec.ClusterIPs = "10.0.255.9", []string{"10.0.255.9"}
	second.Spec.Ports[0].NodePort = 0
	second.CreationTimestamp = metav1.Unix(first.CreationTimestamp.Unix()-100, 0)
	var stored strings.Builder
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(second, &stored); err != nil {
		t.Fatal(err)
	}
	for _, r := range []store.Update{
		{Key: addressClaims + address, UID: "claim" + name, Value: []byte("host2\n" + "default/" + name + " " + name)},
		{Key: "/registry/services/specs/default/" + name, UID: name, Value: []byte(stored.String())},
	} {
		r.Expect = store.Any
		if _, err := other.db.Update(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	carry(t, other.db, peer.DB)
	eventually(t, "another address for the second", func(ctx context.Context) bool {
		s, err := peer.Client.CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
		return err == nil && len(s.Status.LoadBalancer.Ingress) == 1 && s.Status.LoadBalancer.Ingress[0].IP != address
	})
	awaitEvent(t, "default", name, loadbalancer.ReasonReallocated, "default/lb-first claimed it first")
	becomes(t, "lb-first", address, loadbalancer.ReasonAssigned)
	if err := peer.Client.CoreV1().Services("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// TestAHostsAddressIsNoServices: a pool that has a host's own address by mistake
// does not take it from the host.
func TestAHostsAddressIsNoServices(t *testing.T) {
	makePool(t, "hosts", "192.0.2.150-192.0.2.151")
	makeService(t, balanced("lb-near", "hosts", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.150" }))
	becomes(t, "lb-near", "192.0.2.150", loadbalancer.ReasonAssigned)
	change(t, "lb-near", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "" })
	nodes := peer.Client.CoreV1().Nodes()
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "lb-node"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), node.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.150"}}
	if _, err := nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(t, "lb-near", "192.0.2.151", loadbalancer.ReasonAssigned)
	change(t, "lb-near", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.150" })
	becomes(t, "lb-near", "", loadbalancer.ReasonInUse)
	awaitEvent(t, "default", "lb-near", loadbalancer.ReasonInUse, "host lb-node")
	eventually(t, "the host's address is not counted as free", func(ctx context.Context) bool {
		o, err := poolClient(t).Get(ctx, "hosts", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		free, _, _ := unstructured.NestedInt64(o.Object, "status", "free")
		assigned, _, _ := unstructured.NestedInt64(o.Object, "status", "assigned")
		return free == 1 && assigned == 0
	})
}

// TestTwoPeersActAtOnce: peers that do not know of each other act for the same
// services. Each service has one address all the same, and nothing is left over.
func TestTwoPeersActAtOnce(t *testing.T) {
	const services = 30
	makePool(t, "overlap", "198.51.100.0-198.51.100.99")
	startSecondController(t)
	for i := range services {
		makeService(t, balanced(fmt.Sprint("lb-overlap-", i), "overlap"))
	}
	have := map[string]string{}
	eventually(t, "an address for each", func(ctx context.Context) bool {
		list, err := peer.Client.CoreV1().Services("default").List(ctx, metav1.ListOptions{LabelSelector: "pool=overlap"})
		if err != nil {
			return false
		}
		clear(have)
		for _, s := range list.Items {
			if a := addressesIn(&s); a != "" {
				have[a] = s.Name
			}
		}
		return len(have) == services
	})
	eventually(t, "one claim for each, of that service", func(context.Context) bool {
		claimed := claimsBelow(t, addressClaims+"198.51.100.")
		for a, owner := range claimed {
			if have[a] == "" || !strings.Contains(owner, "\ndefault/"+have[a]+" ") {
				return false
			}
		}
		return len(claimed) == services
	})
	for _, name := range have {
		if err := peer.Client.CoreV1().Services("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no claim is left", func(context.Context) bool { return len(claimsBelow(t, addressClaims+"198.51.100.")) == 0 })
}

// startSecondController runs another peer's, over the same API and records, that
// sees nobody beside itself.
func startSecondController(t *testing.T) {
	t.Helper()
	config := peer.ClientConfig("second")
	client := clientset(t, config)
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	owned, err := claims.OpenAddresses(t.Context(), api.CellRecords(peer.DB), addressClaims, "host2")
	if err != nil {
		t.Fatal(err)
	}
	shared := informers.NewSharedInformerFactory(client, 0)
	c, err := loadbalancer.New(loadbalancer.Options{
		Self: "host2", Client: client, Objects: objects, Claims: owned, Logger: slog.New(slog.DiscardHandler),
		Warn: func(context.Context, corev1.ObjectReference, string, string) error { return nil },
	}, shared)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	shared.Start(ctx.Done())
	shared.WaitForCacheSync(ctx.Done())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		shared.Shutdown()
	})
}

func claimsBelow(t *testing.T, prefix string) map[string]string {
	t.Helper()
	found, err := api.CellRecords(peer.DB).ListRecords(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for key, value := range found {
		out[strings.TrimPrefix(key, addressClaims)] = string(value)
	}
	return out
}
