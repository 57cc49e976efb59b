package cell

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEncryption switches encryption on and off again in a cell that runs: pods
// of all hosts get on, and each host says how.
func TestEncryption(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	for _, p := range all() {
		_, err := p.kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "on-" + p.name, Labels: map[string]string{"app": "net"}},
			Spec:       corev1.PodSpec{NodeName: p.name, Containers: []corev1.Container{hello()}},
		}, metav1.CreateOptions{})
		ok(t, err)
	}
	api, err := peers[1].kube.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	ok(t, err)
	allTalk := func(when string) {
		t.Helper()
		pods := peers[3].runs(t, ns, "net", nodes)
		for i := range pods {
			eventually(t, when+", "+pods[i].Name+" resolves a name", func() error {
				out, err := peers[1].exec(t, ns, pods[i].Name, "nslookup", "-type=a", "kubernetes.default.svc.cluster.local")
				if err == nil && !strings.Contains(out, api.Spec.ClusterIP) {
					err = fmt.Errorf("to %q", out)
				}
				return err
			})
			for j := range pods {
				from, to := pods[i].Name, pods[j].Name
				eventually(t, when+", "+from+" reaches "+to, func() error { return talks(t, ns, from, to) })
			}
		}
	}
	ways := func(want string) {
		t.Helper()
		for _, p := range all() {
			eventually(t, p.name+" reaches all by "+want, func() error {
				status := p.shoal(t, "status")
				if n := strings.Count(status, " "+want+" "); n != nodes-1 {
					return fmt.Errorf("%d of %d:\n%s", n, nodes-1, status)
				}
				return nil
			})
		}
	}
	peers[1].shoal(t, "encryption", "off") // a run of this test that failed may have left it on
	ways("direct")
	if out := peers[2].shoal(t, "encryption", "on"); !strings.Contains(out, "is on") {
		t.Errorf("switched on: %q", out)
	}
	ways("wireguard")
	allTalk("encrypted")

	t.Run("a daemon that is killed comes back with the same key", func(t *testing.T) {
		key := func() string {
			n, err := peers[1].kube.CoreV1().Nodes().Get(t.Context(), "lab-4", metav1.GetOptions{})
			ok(t, err)
			return n.Annotations["shoal.dev/wireguard-key"]
		}
		before := key()
		ok(t, cell.Kill(within(t), 4))
		whole(t)
		if after := key(); before == "" || after != before {
			t.Errorf("its key was %q and is %q", before, after)
		}
		ways("wireguard")
		allTalk("after a kill")
	})
	t.Run("a daemon that wants otherwise is refused", func(t *testing.T) {
		ok(t, cell.Kill(within(t), 3))
		if err := cell.Start(within(t), 3, "--no-encrypt"); err == nil || !strings.Contains(err.Error(), "encrypts between hosts") {
			t.Errorf("started with --no-encrypt: %v", err)
		}
		whole(t)
	})
	if out := peers[5].shoal(t, "encryption", "off"); !strings.Contains(out, "is off") {
		t.Errorf("switched off: %q", out)
	}
	ways("direct")
	allTalk("in the clear again")
}

// talks calls a pod at each of its addresses, which are others after a kill of its host.
func talks(t *testing.T, ns, from, to string) error {
	t.Helper()
	pod, err := peers[1].kube.CoreV1().Pods(ns).Get(t.Context(), to, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(pod.Status.PodIPs) == 0 {
		return fmt.Errorf("%s has no address", to)
	}
	for _, ip := range pod.Status.PodIPs {
		address := ip.IP
		if strings.Contains(address, ":") {
			address = "[" + address + "]"
		}
		out, err := peers[1].exec(t, ns, from, "hello", "get", "http://"+address, "1")
		if err != nil {
			return fmt.Errorf("at %s: %w", address, err)
		}
		if !strings.Contains(out, to) {
			return fmt.Errorf("at %s somebody else answers: %s", address, out)
		}
	}
	return nil
}
