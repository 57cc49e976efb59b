package elect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"shoal/api/loadbalancer/v1alpha1"
	"shoal/test/eventually"
)

// hosts are controllers of several hosts over one API, with the link's side
// recorded.
type hosts struct {
	t      *testing.T
	client *fake.Clientset
	mu     sync.Mutex
	alive  []string            // guarded by mu
	says   map[string][]string // addresses by host; guarded by mu
	broken error               // of Set, which does its work otherwise; guarded by mu
	sets   int                 // how often it was called; guarded by mu
	renews int                 // and how often with renew; guarded by mu
	taken  net.HardwareAddr    // another machine on the link has all addresses; guarded by mu
	events *record.FakeRecorder

	stableFor time.Duration
	ahead     map[string]time.Duration // of clocks
	by        map[string]*Controller
	wake      []chan struct{}
}

type recorder struct {
	h    *hosts
	host string
}

func (r recorder) Set(interfaces []string, addresses []netip.Addr, renew bool) error {
	if !slices.Equal(interfaces, []string{"eth0"}) {
		return fmt.Errorf("interfaces %v", interfaces)
	}
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.h.says[r.host] = all
	r.h.sets++
	if renew {
		r.h.renews++
	}
	return r.h.broken
}

func (r recorder) Answers(a netip.Addr) (yes bool, taken net.HardwareAddr) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	return r.h.taken == nil && slices.Contains(r.h.says[r.host], a.String()), r.h.taken
}

func (r recorder) Close() {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	delete(r.h.says, r.host)
}

// startHosts starts hosts that are stable after a while, with the networks that
// their links are in.
func startHosts(t *testing.T, client *fake.Clientset, stableFor time.Duration, links map[string]string) *hosts {
	h := newHosts(t, client, stableFor)
	for name := range links {
		h.alive = append(h.alive, name)
	}
	slices.Sort(h.alive)
	for name, link := range links {
		h.start(name, link)
	}
	return h
}

func newHosts(t *testing.T, client *fake.Clientset, stableFor time.Duration) *hosts {
	return &hosts{stableFor: stableFor, t: t, client: client, says: map[string][]string{}, events: record.NewFakeRecorder(100), by: map[string]*Controller{}}
}

func (h *hosts) start(name, link string) {
	h.t.Helper()
	// What it said before it was started anew.
	long := map[string]string{v1alpha1.AnnouncesSince: "2020-01-02T03:04:05.678Z", v1alpha1.AnnouncesStable: "2020-01-02T03:04:05.678Z"}
	if _, err := h.client.CoreV1().Nodes().Create(h.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: long}}, metav1.CreateOptions{}); err != nil {
		h.t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(h.client, 0)
	changed := make(chan struct{}, 1)
	h.wake = append(h.wake, changed)
	c, err := New(Options{
		Self: name, Changed: changed, Client: h.client, Responder: recorder{h, name}, Logger: slog.New(slog.DiscardHandler),
		Alive: func() []string {
			h.mu.Lock()
			defer h.mu.Unlock()
			return slices.Clone(h.alive)
		},
		Interfaces: func() []string { return []string{"eth0"} },
		Links:      func() ([]netip.Prefix, error) { return parseLinks(link), nil },
		Hardware:   func() []net.HardwareAddr { return []net.HardwareAddr{hardwareOf(name)} },
		Events:     h.events,
		StableFor:  h.stableFor,
		Now: func() time.Time {
			h.mu.Lock()
			defer h.mu.Unlock()
			return time.Now().Add(h.ahead[name])
		},
	}, factory)
	if err != nil {
		h.t.Fatal(err)
	}
	h.by[name] = c
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
		factory.Shutdown()
	})
}

// hardwareOf is where a host is on the link.
func hardwareOf(name string) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, name[0]} }

// dies has gossip call a host failed.
func (h *hosts) dies(name string) {
	h.mu.Lock()
	h.alive = slices.DeleteFunc(h.alive, func(n string) bool { return n == name })
	h.mu.Unlock()
	for _, w := range h.wake {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// answering are the living hosts that answer for an address.
func (h *hosts) answering(address string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, name := range h.alive {
		if slices.Contains(h.says[name], address) {
			out = append(out, name)
		}
	}
	return out
}

func (h *hosts) said() *metav1.Condition {
	s, err := h.client.CoreV1().Services("default").Get(h.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.Announced); c != nil {
		return c
	}
	return &metav1.Condition{}
}

// settles waits until one host of those given answers, and the service says so.
func (h *hosts) settles(address string, among ...string) string {
	h.t.Helper()
	var who []string
	eventually.True(h.t, fmt.Sprintf("one of %v answers for %s", among, address), func() bool {
		who = h.answering(address)
		return len(who) == 1 && slices.Contains(among, who[0]) && h.said().Message == who[0] && h.said().Status == metav1.ConditionTrue
	})
	return who[0]
}

// changes has another machine have all addresses, or none.
func (h *hosts) changes(taken net.HardwareAddr) {
	h.mu.Lock()
	h.taken = taken
	h.mu.Unlock()
	for _, c := range h.by {
		c.Look()
	}
}

func without(all []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == name })
}

// balanced is a service with an address.
func balanced(address string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
	svc.Status.Conditions = []metav1.Condition{{Type: v1alpha1.AddressAssigned, Status: metav1.ConditionTrue}}
	return svc
}

// A cell that starts as a whole waits for no host to be stable, and agrees on one.
func TestAWholeCellStarts(t *testing.T) {
	const address = "192.0.2.200"
	client := fake.NewClientset(balanced(address))
	here := []string{"a", "b", "c"}
	h := startHosts(t, client, 24*time.Hour, map[string]string{"a": "192.0.2.0/24", "b": "192.0.2.0/24", "c": "192.0.2.0/24"})
	first := h.settles(address, here...)
	h.dies(first)
	h.settles(address, without(here, first)...)
}

// startAmong starts hosts whose clocks differ.
func startAmong(t *testing.T, stableFor time.Duration, address string, ahead map[string]time.Duration) *hosts {
	h := newHosts(t, fake.NewClientset(balanced(address)), stableFor)
	h.ahead = ahead
	h.alive = slices.Sorted(maps.Keys(ahead))
	for _, name := range h.alive {
		h.start(name, "192.0.2.0/24")
	}
	return h
}

// A clock that is wrong makes no host stable earlier or later in the eyes of others:
// once all have said that they are, the one chosen among all announces, alone.
func TestClocksThatDiffer(t *testing.T) {
	const address = "192.0.2.200"
	here := []string{"a", "b", "c"}
	chosen := Announcer(netip.MustParseAddr(address), here)
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			h := startAmong(t, time.Millisecond, address, map[string]time.Duration{"a": 0, "b": 0, "c": 0, chosen: ahead})
			h.settles(address, chosen)
		})
	}
}

// A host that comes later with a clock that is behind, or a Node that says that an
// earlier daemon of it was stable, takes nothing over.
func TestAClockThatIsBehindTakesNothingOver(t *testing.T) {
	const address = "192.0.2.200"
	h := startAmong(t, 24*time.Hour, address, map[string]time.Duration{"a": 0, "b": 0})
	first := h.settles(address, "a", "b")
	h.mu.Lock()
	h.ahead["late"] = -time.Hour
	h.alive = append(h.alive, "late")
	h.mu.Unlock()
	h.start("late", "192.0.2.0/24")
	eventually.True(t, "all look at the late one's Node", func() bool {
		n, err := h.client.CoreV1().Nodes().Get(t.Context(), "late", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return !strings.HasPrefix(n.Annotations[v1alpha1.AnnouncesSince], "2020") && n.Annotations[v1alpha1.AnnouncesStable] == ""
	})
	for _, c := range h.by {
		c.Look()
	}
	h.settles(address, first)
	if late := h.answering(address); !slices.Equal(late, []string{first}) {
		t.Errorf("%v answer", late)
	}
}

// An interface that cannot be used, and a service that cannot be written, keep no
// report back, and have nothing announced over and over.
func TestWhatCannotBeUsedKeepsNothingBack(t *testing.T) {
	const address = "192.0.2.200"
	first := balanced("192.0.2.100")
	first.Name = "a-first"
	client := fake.NewClientset(balanced(address), first)
	client.PrependReactor("update", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		update, ok := action.(clienttesting.UpdateAction)
		if s, isService := update.GetObject().(*corev1.Service); ok && isService && s.Name == first.Name {
			return true, nil, errors.New("a webhook says no")
		}
		return false, nil, nil
	})
	h := startHosts(t, client, time.Millisecond, nil)
	h.broken = errors.New("no such interface")
	h.alive = []string{"a"}
	h.start("a", "192.0.2.0/24")
	h.settles(address, "a")

	count := func() (sets, renews int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.sets, h.renews
	}
	h.dies("another")
	eventually.True(t, "neighbours are told again", func() bool { _, renews := count(); return renews == 1 })
	for range 3 {
		before, _ := count()
		h.by["a"].Look()
		eventually.True(t, "it looks again", func() bool { sets, _ := count(); return sets > before })
	}
	if _, renews := count(); renews != 1 {
		t.Errorf("neighbours were told %d times after one change", renews)
	}
}

func TestWhoIsElected(t *testing.T) {
	now := time.Now()
	a := netip.MustParseAddr("192.0.2.200")
	v := view{alive: []string{"a", "b", "c"}, since: map[string]time.Time{"a": now, "b": now.Add(-time.Second)}}
	if who := v.announcer(balanced(a.String()), nil, a); who != "b" {
		t.Errorf("%q, want the one that has been ready for longest", who)
	}
	v.excluded = map[string]bool{"a": true, "b": true}
	if who := v.announcer(balanced(a.String()), nil, a); who != "c" {
		t.Errorf("%q, want the only one that may", who)
	}
	v.excluded, v.stable = nil, []string{"a", "c"}
	if who := v.announcer(balanced(a.String()), nil, a); who != Announcer(a, v.stable) {
		t.Errorf("%q, want the one chosen among the stable", who)
	}
}

func TestOneHostAnnounces(t *testing.T) {
	const address = "192.0.2.200"
	client := fake.NewClientset(balanced(address))
	here := []string{"a", "b", "c"}
	h := startHosts(t, client, time.Millisecond, map[string]string{"a": "192.0.2.0/24", "b": "192.0.2.0/24", "c": "192.0.2.0/24", "far": "198.51.100.0/24"})
	first := h.settles(address, here...)

	h.dies(first)
	here = without(here, first)
	second := h.settles(address, here...)
	if err := h.by[second].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A write of its own under way has no conflict at this API, and wins for a moment.
	eventually.True(t, "the host that left is not said to announce", func() bool { return h.said().Message != second })
	third := h.settles(address, without(here, second)...)

	// With the policy Local it is where an endpoint is, or nowhere.
	services, slices := client.CoreV1().Services("default"), client.DiscoveryV1().EndpointSlices("default")
	s, err := services.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	if _, err := services.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "nobody answers, and that is said", func() bool {
		said := h.said()
		return len(h.answering(address)) == 0 && said.Status == metav1.ConditionFalse && said.Reason == ReasonNobody && strings.Contains(said.Message, "ready endpoint")
	})
	e := slice("far:rs", third+":rs")
	e.Namespace, e.Name, e.Labels = "default", "web-1", map[string]string{discoveryv1.LabelServiceName: "web"}
	if _, err := slices.Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.settles(address, third)

	// Another machine on the link has it, and leaves it again.
	stranger := net.HardwareAddr{2, 1, 1, 1, 1, 1}
	if h.by[third].OfHost(stranger) || !h.by[third].OfHost(hardwareOf(third)) {
		t.Error("which hardware addresses are of hosts is not known")
	}
	h.changes(stranger)
	eventually.True(t, "it is said who has the address", func() bool {
		said := h.said()
		return said.Status == metav1.ConditionFalse && said.Reason == ReasonDuplicate && strings.Contains(said.Message, stranger.String())
	})
	if e := <-h.events.Events; !strings.Contains(e, "Warning "+ReasonDuplicate) || !strings.Contains(e, stranger.String()) {
		t.Errorf("the event is %q", e)
	}
	h.changes(nil)
	h.settles(address, third)

	if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "nobody answers for a service that is gone", func() bool { return len(h.answering(address)) == 0 })
}
