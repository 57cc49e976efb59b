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
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/netdp"
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
	mu    sync.Mutex
	hosts []netdp.Host
	calls int
	fail  bool
}

func (r *recorder) SetHosts(hosts []netdp.Host) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
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
	c := New(dp, informers.NewSharedInformerFactory(client, 0), "self", slog.New(slog.DiscardHandler))
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
