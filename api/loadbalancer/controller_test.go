package loadbalancer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"shoal/api/claims"
	"shoal/api/loadbalancer/v1alpha1"
)

// shelf keeps the records of claims in memory.
type shelf map[string][]byte

func (s shelf) CreateRecord(_ context.Context, key string, value []byte) (bool, error) {
	if _, ok := s[key]; ok {
		return false, nil
	}
	s[key] = value
	return true, nil
}

func (s shelf) DeleteRecord(_ context.Context, key string) error {
	delete(s, key)
	return nil
}

func (s shelf) ListRecords(context.Context, string) (map[string][]byte, error) { return s, nil }

func (s shelf) ReplaceRecord(_ context.Context, key string, old, value []byte) (bool, error) {
	if !bytes.Equal(s[key], old) {
		return false, nil
	}
	s[key] = value
	return true, nil
}

func (s shelf) FollowRecords(context.Context, string, func(map[string][]byte), func(string, []byte)) error {
	return errors.New("api tests that on a store")
}

// still is a Controller of one pool, of 192.0.2.1, that does what it is called
// for: nothing runs beside, and its API server is not there.
func still(t *testing.T, services ...*corev1.Service) *Controller {
	t.Helper()
	owned, err := claims.OpenAddresses(t.Context(), shelf{}, "/claims/", "h")
	if err != nil {
		t.Fatal(err)
	}
	nobody := &rest.Config{Host: "http://192.0.2.254:1", Timeout: time.Millisecond}
	client, objects := kubernetes.NewForConfigOrDie(nobody), dynamic.NewForConfigOrDie(nobody)
	c, err := New(Options{Self: "h", Client: client, Objects: objects, Claims: owned, Logger: slog.New(slog.DiscardHandler)},
		informers.NewSharedInformerFactory(client, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.queue.ShutDown)
	c.pools.pools = []Pool{pool(t, "p", nil, "192.0.2.1")}
	for _, s := range services {
		if err := c.services.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

var address = netip.MustParseAddr("192.0.2.1")

func (c *Controller) take1(t *testing.T, owner string) {
	t.Helper()
	if taken, err := c.o.Claims.Take(address, owner); err != nil || !taken {
		t.Fatalf("claimed %t, %v", taken, err)
	}
}

// settled makes all that looks wrong have lasted.
func (c *Controller) settled() {
	for a, o := range c.orphans {
		o.since = o.since.Add(-2 * settle)
		c.orphans[a] = o
	}
}

func (c *Controller) syncs(t *testing.T, name string) {
	t.Helper()
	if err := c.sync(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// ending is a service that has the address, and that a finalizer holds.
func ending(s *corev1.Service) {
	mode := corev1.LoadBalancerIPModeVIP
	s.DeletionTimestamp, s.Finalizers = ptr(metav1.Now()), []string{"example.org/held"}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address.String(), IPMode: &mode}}
	s.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.AddressAssigned, Status: metav1.ConditionTrue, Reason: ReasonAssigned, Message: "192.0.2.1 of AddressPool p",
	}}
}

// TestAServiceBeingDeletedKeepsItsAddress: until the object is gone.
func TestAServiceBeingDeletedKeepsItsAddress(t *testing.T) {
	svc := service(ending)
	c := still(t, svc)
	c.take1(t, owner(svc))
	for range 2 {
		c.syncs(t, "default/web")
		c.settled()
	}
	if claim, held := c.o.Claims.Claim(address); !held || claim.Owner != owner(svc) {
		t.Fatalf("the claim is %+v, %t", claim, held)
	}
	if err := c.services.Delete(svc); err != nil {
		t.Fatal(err)
	}
	c.serviceDeleted(svc)
	c.syncs(t, "default/web")
	if c.o.Claims.Has(address) {
		t.Error("the object is gone and the claim is still there")
	}
}

// TestAServiceBeingDeletedGetsNothingNew: it claims again what its status has,
// and nothing else.
func TestAServiceBeingDeletedGetsNothingNew(t *testing.T) {
	c := still(t, service(func(s *corev1.Service) { s.DeletionTimestamp = ptr(metav1.Now()) }))
	c.syncs(t, "default/web")
	if c.o.Claims.Has(address) || len(c.waiting) > 0 {
		t.Error("a service without an address got one, or waits for one")
	}
	other := service(ending, func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "198.51.100.1" })
	c = still(t, other)
	if err := c.sync(t.Context(), "default/web"); err == nil {
		t.Error("a status whose address is of no pool any more was not written")
	}
	if c.o.Claims.Has(address) {
		t.Error("a service whose address is of no pool any more got another")
	}
	c = still(t, service(ending))
	c.syncs(t, "default/web")
	if !c.o.Claims.Has(address) {
		t.Error("what the status has was not claimed again")
	}
}

// TestWhatIsRememberedOfClaims goes with them, whoever frees them.
func TestWhatIsRememberedOfClaims(t *testing.T) {
	first, second := service(), service(func(s *corev1.Service) { s.UID = "uid-2" })
	c := still(t)
	c.serviceDeleted(first)
	if len(c.ended) > 0 {
		t.Error("a service that no claim names is remembered")
	}
	c.take1(t, owner(first))
	c.syncs(t, "default/web")
	if len(c.orphans) != 1 {
		t.Fatalf("orphans are %v", c.orphans)
	}
	c.settled()
	c.serviceDeleted(first)
	if len(c.ended) != 1 {
		t.Error("the service that the claim names is not remembered")
	}
	// Another peer frees it, and a service of the same name claims it that is not
	// heard of yet.
	if err := c.o.Claims.Free(address); err != nil {
		t.Fatal(err)
	}
	c.take1(t, owner(second))
	c.syncs(t, "default/web")
	if !c.o.Claims.Has(address) {
		t.Error("the claim of a service not heard of yet was freed at once, for what another was")
	}
	if len(c.ended) > 0 {
		t.Errorf("%v is remembered without a claim", c.ended)
	}
	if err := c.o.Claims.Free(address); err != nil {
		t.Fatal(err)
	}
	if err := c.look(t.Context(), key{}); err != nil {
		t.Fatal(err)
	}
	if len(c.orphans) > 0 {
		t.Errorf("%v is remembered without a claim", c.orphans)
	}
}

// TestDrawStopsWithItsContext: and does not call the pool empty.
func TestDrawStopsWithItsContext(t *testing.T) {
	svc := service()
	c := still(t, svc)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.sync(ctx, "default/web"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "default/web") {
		t.Errorf("%v, want that it was cancelled", err)
	}
	if c.o.Claims.Has(address) || len(c.waiting) > 0 {
		t.Error("a cancelled draw claimed an address or found none")
	}
}

// TestAPoolSaysWhatItCannotGive: a pool within the cell's ranges has nothing free
// and says why.
func TestAPoolSaysWhatItCannotGive(t *testing.T) {
	c := still(t)
	c.o.Ranges = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}
	o := object("q", "2001:db8:1:2::/64", "192.0.2.7")
	c.statusOf(o, pool(t, "q", nil, o.Spec.Addresses...))
	if o.Status.Free != 1 || len(o.Status.Conditions) != 1 {
		t.Fatalf("the status is %+v", o.Status)
	}
	if said := o.Status.Conditions[0]; said.Status != metav1.ConditionFalse || !strings.Contains(said.Message, "overlaps the cell's own range 2001:db8:1::/48") {
		t.Errorf("it says %+v", said)
	}
}
