package dns

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/netdp/dns/records"
)

// TestFollow: the index says what the objects say, after each change of them.
func TestFollow(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	pod := &corev1.Pod{ObjectMeta: meta("p"), Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.64.0.9"}}}}
	client := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, pod)
	factory := informers.NewSharedInformerFactory(client, 0)
	index := records.New("cluster.local", netip.MustParsePrefix("10.64.0.0/16"))
	f, err := Follow(index, factory)
	if err != nil {
		t.Fatal(err)
	}
	if f.Synced() {
		t.Error("it knows all before anything was read")
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer stop()
	says := func(want string) {
		t.Helper()
		got := ""
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
			var all []string
			for _, name := range []string{"db.default.svc.cluster.local.", "other.default.svc.cluster.local.", "10-64-0-9.default.pod.cluster.local."} {
				for _, rr := range index.Lookup(name, dns.TypeA).Records {
					label, _, _ := strings.Cut(name, ".")
					all = append(all, label+"="+rr.(*dns.A).A.String())
				}
			}
			if got = strings.Join(all, " "); got == want && f.Synced() {
				return
			}
		}
		t.Fatalf("it says %q, want %q", got, want)
	}
	says("10-64-0-9=10.64.0.9")
	for _, name := range []string{"db", "other"} {
		svc := &corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}
		if _, err := client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ready := true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta("s"), AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.64.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "db"}
	slices := client.DiscoveryV1().EndpointSlices("default")
	if _, err := slices.Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	says("db=10.64.0.1 10-64-0-9=10.64.0.9")
	slice = slice.DeepCopy()
	slice.Labels[discoveryv1.LabelServiceName] = "other"
	if _, err := slices.Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	says("other=10.64.0.1 10-64-0-9=10.64.0.9")
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodSucceeded
	if _, err := client.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	says("other=10.64.0.1")
	if err := client.CoreV1().Services("default").Delete(ctx, "other", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says("")
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
