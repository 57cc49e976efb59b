package hosts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/netdp"
	"shoal/netdp/wireguard"
)

func node(name string, age int, cidr string, addresses ...string) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(1_000_000-age), 0)},
		Spec:       corev1.NodeSpec{PodCIDR: cidr},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}},
	}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func host(name, cidr string, addresses ...string) netdp.Host {
	h := netdp.Host{Name: name}
	if cidr != "" {
		h.PodCIDR = netip.MustParsePrefix(cidr)
	}
	for _, a := range addresses {
		h.Addresses = append(h.Addresses, netip.MustParseAddr(a))
	}
	return h
}

func TestFromNodes(t *testing.T) {
	dual := node("dual", 3, "fd00::/64", "192.0.2.3", "2001:db8::3")
	dual.Spec.PodCIDRs = []string{"fd00::/64", "10.64.3.0/24"}
	got := FromNodes([]*corev1.Node{
		node("young", 1, "10.64.1.0/24", "192.0.2.1"), node("self", 9, "10.64.9.0/24", "192.0.2.9"), dual,
		node("b", 2, "nonsense", "nonsense"), node("a", 2, ""),
	}, "self")
	both := host("dual", "10.64.3.0/24", "192.0.2.3", "2001:db8::3")
	both.PodCIDR6 = netip.MustParsePrefix("fd00::/64")
	want := []netdp.Host{
		both,
		host("a", ""), host("b", ""), host("young", "10.64.1.0/24", "192.0.2.1"),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// recorder keeps what was set last.
type recorder struct {
	mu         sync.Mutex
	hosts      []netdp.Host
	calls      int
	fail       bool
	failAlways bool // but it sets them
	key        wireguard.Key
}

func (r *recorder) KeyToTell() wireguard.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.key
}

func (r *recorder) SetHosts(hosts []netdp.Host) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.failAlways {
		r.hosts = hosts
		return errors.New("a host cannot be reached")
	}
	if r.fail {
		r.fail = false
		return errors.New("the first try fails")
	}
	r.hosts = hosts
	return nil
}

func (r *recorder) WatchLinks(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

func (r *recorder) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		r.mu.Lock()
		got := fmt.Sprint(r.hosts)
		r.mu.Unlock()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("hosts are %s, want %s", got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestControllerFollowsNodes(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	client := fake.NewClientset(node("self", 9, "10.64.9.0/24", "192.0.2.9"), node("one", 5, "10.64.1.0/24", "192.0.2.1"))
	dp := &recorder{fail: true}
	c := New(dp, client, informers.NewSharedInformerFactory(client, 0), "self", slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	one, two := host("one", "10.64.1.0/24", "192.0.2.1"), host("two", "10.64.2.0/24", "192.0.2.2")
	dp.await(t, fmt.Sprint([]netdp.Host{one}))
	nodes := client.CoreV1().Nodes()
	_, err := nodes.Create(ctx, node("two", 4, "10.64.2.0/24", "192.0.2.2"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dp.await(t, fmt.Sprint([]netdp.Host{one, two}))
	moved := node("two", 4, "10.64.2.0/24", "192.0.2.22")
	if _, err := nodes.UpdateStatus(ctx, moved, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	dp.await(t, fmt.Sprint([]netdp.Host{one, host("two", "10.64.2.0/24", "192.0.2.22")}))
	dp.mu.Lock()
	calls := dp.calls
	dp.mu.Unlock()
	moved.Status.Phase = corev1.NodeRunning // nothing that counts
	if _, err := nodes.UpdateStatus(ctx, moved, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := nodes.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	dp.await(t, fmt.Sprint([]netdp.Host{host("two", "10.64.2.0/24", "192.0.2.22")}))
	dp.mu.Lock()
	if dp.calls != calls+1 {
		t.Errorf("set %d times for one change that counts", dp.calls-calls)
	}
	dp.mu.Unlock()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Keys go both ways by Nodes: others' to the datapath, and this host's own while
// it encrypts, also after somebody took it away.
func TestKeysTravelByNodes(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	client := fake.NewClientset(node("self", 9, "10.64.9.0/24", "192.0.2.9"), node("one", 5, "10.64.1.0/24", "192.0.2.1"))
	own, other := wireguard.Key{1}, wireguard.Key{2}
	dp := &recorder{key: own, failAlways: true} // one host's trouble keeps no key back
	c := New(dp, client, informers.NewSharedInformerFactory(client, 0), "self", slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	told := func() string {
		n, err := client.CoreV1().Nodes().Get(ctx, "self", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n.Annotations[KeyAnnotation]
	}
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); told() != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("this host tells %q, want %q", told(), want)
			}
		}
	}
	annotate := func(name, value string) {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, KeyAnnotation, value)
		if _, err := client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	await(own.String())
	annotate("one", `"`+other.String()+`"`)
	with := host("one", "10.64.1.0/24", "192.0.2.1")
	with.WireGuardKey = other
	dp.await(t, fmt.Sprint([]netdp.Host{with}))
	annotate("one", `"nonsense"`)
	dp.await(t, fmt.Sprint([]netdp.Host{host("one", "10.64.1.0/24", "192.0.2.1")}))
	annotate("self", "null")
	await(own.String())
	dp.mu.Lock()
	dp.key = wireguard.Key{}
	dp.mu.Unlock()
	c.Wake()
	await("")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
