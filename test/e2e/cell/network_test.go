package cell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"shoal/cmd/shoal/lab"
)

// callsToAll is enough for a service that balances over five to meet each: that
// one is missed has odds of 5·0.8^100, one in a billion.
const callsToAll = 100

// TestPodsAcrossPeers runs a pod on every host, all of one service.
func TestPodsAcrossPeers(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	for _, p := range all() {
		_, err := p.kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "on-" + p.name, Labels: map[string]string{"app": "net"}},
			Spec:       corev1.PodSpec{NodeName: p.name, Containers: []corev1.Container{hello()}},
		}, metav1.CreateOptions{})
		ok(t, err)
	}
	service, err := peers[2].kube.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "net"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "net"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	ok(t, err)
	pods := peers[3].runs(t, ns, "net", nodes)

	t.Run("pod to pod", func(t *testing.T) {
		for i := range pods {
			for j := range pods {
				from, to := &pods[i], &pods[j]
				eventually(t, from.Name+" reaches "+to.Name, func() error {
					out, err := peers[1].exec(t, ns, from.Name, "hello", "get", "http://"+to.Status.PodIP, "1")
					if err == nil && !strings.Contains(out, to.Name) {
						err = fmt.Errorf("somebody else answers: %s", out)
					}
					return err
				})
			}
		}
	})
	t.Run("pod to pod by IPv6", func(t *testing.T) {
		for i := range pods {
			for j := range pods {
				from, to := &pods[i], &pods[j]
				if len(to.Status.PodIPs) != 2 {
					t.Fatalf("%s has %v", to.Name, to.Status.PodIPs)
				}
				eventually(t, from.Name+" reaches "+to.Name, func() error {
					out, err := peers[1].exec(t, ns, from.Name, "hello", "get", "http://["+to.Status.PodIPs[1].IP+"]", "1")
					if err == nil && !strings.Contains(out, to.Name) {
						err = fmt.Errorf("somebody else answers: %s", out)
					}
					return err
				})
			}
		}
	})
	t.Run("cluster ip", func(t *testing.T) {
		for _, p := range all() {
			balances(t, "from a pod on "+p.name, func() (string, error) {
				return p.exec(t, ns, "on-"+p.name, "hello", "get", "http://"+service.Spec.ClusterIP, fmt.Sprint(callsToAll))
			})
		}
	})
	t.Run("the own node is preferred", func(t *testing.T) {
		const calls = 20
		near := corev1.ServiceTrafficDistributionPreferSameNode
		service, err := peers[2].kube.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "near"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "net"}, Ports: []corev1.ServicePort{{Port: 80}}, TrafficDistribution: &near},
		}, metav1.CreateOptions{})
		ok(t, err)
		for _, p := range all() {
			eventually(t, "a pod on "+p.name+" calls itself", func() error {
				out, err := p.exec(t, ns, "on-"+p.name, "hello", "get", "http://"+service.Spec.ClusterIP, fmt.Sprint(calls))
				if n := strings.Count(out, "on-"+p.name); err == nil && n < calls {
					err = fmt.Errorf("%d of %d calls", n, calls)
				}
				return err
			})
		}
	})
	t.Run("node port", func(t *testing.T) {
		for _, p := range all() {
			address, err := cell.Address(p.number)
			ok(t, err)
			url := "http://" + net.JoinHostPort(address.String(), fmt.Sprint(service.Spec.Ports[0].NodePort)) + "/"
			balances(t, "from this machine through "+p.name, func() (string, error) { return fetch(t.Context(), url, callsToAll) })
		}
	})
	t.Run("logs and exec", func(t *testing.T) {
		for _, p := range all() {
			for _, pod := range pods {
				out, err := p.exec(t, ns, pod.Name, "sh", "-c", "echo $NODE_NAME; cat")
				if err != nil || out != pod.Spec.NodeName+"\n" {
					t.Errorf("exec in %s through %s: %q, %v", pod.Name, p.name, out, err)
				}
				log, err := p.kube.CoreV1().Pods(ns).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
				if err != nil || !bytes.Contains(log, []byte("listening")) {
					t.Errorf("log of %s through %s: %q, %v", pod.Name, p.name, log, err)
				}
			}
		}
		out := peers[2].kubectl(t, "", "exec", "-n", ns, "on-lab-5", "--", "hostname")
		if out != "on-lab-5\n" {
			t.Errorf("kubectl exec: %q", out)
		}
	})
	t.Run("flows and services of another host", func(t *testing.T) { lookFromAfar(t, ns, pods) })
	t.Run("kubernetes service", func(t *testing.T) { ownAPIFirst(t, ns) })
}

// lookFromAfar asks one peer for what another host's kernel holds and dropped.
func lookFromAfar(t *testing.T, ns string, pods []corev1.Pod) {
	empty, err := peers[3].kube.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "empty"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "nobody"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	ok(t, err)
	eventually(t, "a refusal on lab-5 is seen through lab-2", func() error {
		if _, err := peers[1].exec(t, ns, "on-lab-5", "hello", "get", "http://"+empty.Spec.ClusterIP, "1"); err == nil {
			return errors.New("a service that nobody answers was reached")
		}
		text := peers[2].shoal(t, "flows", "--dropped", "--host", "lab-5", "-n", ns)
		for _, word := range []string{"lab-5  dropped", ns + "/on-lab-5", "service " + ns + "/empty:80/TCP", "no-backend"} {
			if !strings.Contains(text, word) {
				return fmt.Errorf("%q is not in %q", word, text)
			}
		}
		return nil
	})
	eventually(t, "lab-4 holds all backends", func() error {
		text := peers[2].shoal(t, "services", "net", "-n", ns, "--backends", "--host", "lab-4")
		for i := range pods {
			if name := ns + "/" + pods[i].Name; !strings.Contains(text, name) {
				return fmt.Errorf("%s is not among\n%s", name, text)
			}
		}
		if strings.Contains(text, "*") {
			return fmt.Errorf("kernel and store differ:\n%s", text)
		}
		return nil
	})
}

// balances waits until pods of all hosts have answered what calls asks.
func balances(t *testing.T, what string, calls func() (string, error)) {
	t.Helper()
	eventually(t, what, func() error {
		out, err := calls()
		if err != nil {
			return err
		}
		for _, p := range all() {
			if !strings.Contains(out, "on-"+p.name) {
				return fmt.Errorf("no pod on %s answered any of %d calls", p.name, callsToAll)
			}
		}
		return nil
	})
}

// fetch gets a page so many times, each over a connection of its own.
func fetch(ctx context.Context, url string, times int) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var all strings.Builder
	for range times {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return "", err
		}
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(&all, response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			return "", err
		}
	}
	return all.String(), nil
}

// ownAPIFirst: the `kubernetes` service is all peers, and a pod's connections go
// to the one on its own host. Nothing else can be reached once it is cut off,
// and before gossip has noticed the service still has all endpoints. Names of the
// cell are resolved there all the same.
func ownAPIFirst(t *testing.T, ns string) {
	const calls = 10
	api, err := peers[1].kube.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	ok(t, err)
	url := "https://" + api.Spec.ClusterIP + "/readyz"
	for _, p := range []*peer{peers[5], peers[1]} {
		ok(t, cell.Cut(within(t), p.number))
		out, err := p.exec(t, ns, "on-"+p.name, "hello", "get", url, fmt.Sprint(calls))
		if n := strings.Count(out, "ok"); err != nil || n != calls {
			t.Errorf("a pod on %s, which is cut off, reached the API %d times of %d: %v", p.name, n, calls, err)
		}
		out, err = p.exec(t, ns, "on-"+p.name, "nslookup", "-type=a", "kubernetes.default.svc.cluster.local")
		if err != nil || !strings.Contains(out, api.Spec.ClusterIP) {
			t.Errorf("a pod on %s, which is cut off, resolves a name of the cell to %q, %v", p.name, out, err)
		}
		ok(t, cell.Heal(within(t)))
		for _, q := range all() {
			eventually(t, q.name+" calls all Ready", func() error { return q.allReady(t.Context()) })
		}
	}
}

// exec runs a command in a pod through a peer, whichever host the pod is on.
func (p *peer) exec(t *testing.T, ns, pod string, argv ...string) (string, error) {
	t.Helper()
	request := p.stream.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: argv, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(p.config, http.MethodGet, request.URL().String())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(t.Context(), settleWithin)
	defer cancel()
	var out, problem bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &problem})
	if err != nil {
		return out.String(), fmt.Errorf("%v in %s through %s: %w: %s", argv, pod, p.name, err, problem.String())
	}
	return out.String(), nil
}

// TestOneWayCut: what one peer cannot send another directly travels by others.
func TestOneWayCut(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	ok(t, cell.CutOneWay(within(t), []int{2}, []int{3}))
	const rounds = 20
	var took []time.Duration
	for i := range rounds {
		name := fmt.Sprintf("round-%d", i)
		create(t, peers[2], ns, name)
		took = append(took, eventually(t, name+" on the peer that hears nothing from its writer", func() error {
			_, err := peers[3].kube.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
			return err
		}))
		create(t, peers[3], ns, "back-"+name)
		eventually(t, "back-"+name, func() error {
			_, err := peers[2].kube.CoreV1().ConfigMaps(ns).Get(t.Context(), "back-"+name, metav1.GetOptions{})
			return err
		})
	}
	t.Logf("over a link cut one way a write is seen after %s at the median, %s at most", median(took), slices.Max(took))
	whole(t)
}

func median(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// TestSlowPeer: nobody waits for a peer with a bad link.
func TestSlowPeer(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	const (
		delay  = time.Second
		writes = 100
	)
	measure := func(round string) time.Duration {
		var took []time.Duration
		for i := range writes {
			p := peers[1+i%4]
			began := time.Now()
			create(t, p, ns, fmt.Sprintf("%s-%d", round, i))
			took = append(took, time.Since(began))
		}
		t.Logf("%s: a write on the others took %s at the median, %s at most", round, median(took), slices.Max(took))
		return median(took)
	}
	measure("before")
	ok(t, cell.Slow(within(t), 5, lab.Shape{Delay: delay, LossPercent: 5}))
	// A write that waited for the slow peer would take two delays.
	if m := measure("during"); m >= 2*delay {
		t.Errorf("writes on others wait for a slow peer: %s", m)
	}
	seen := eventually(t, "the others are equal", func() error {
		for _, p := range all(1, 2, 3, 4) {
			list, err := p.kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			if n := len(list.Items); n < 2*writes {
				return fmt.Errorf("%s has %d", p.name, n)
			}
		}
		return nil
	})
	t.Logf("the other four have all after %s", seen)
	took := eventually(t, "the slow peer has all", func() error {
		list, err := peers[5].kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if n := len(list.Items); n < 2*writes {
			return fmt.Errorf("it has %d", n)
		}
		return nil
	})
	t.Logf("the slow peer has all %s after the others", took)
	whole(t)
}
