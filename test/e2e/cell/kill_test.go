package cell

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// away is how long a killed host stays dead while others write.
const away = 5 * time.Second

// TestKillUnderLoad kills a host that is written to, as are all others.
func TestKillUnderLoad(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	victim := peers[5]
	_, err := peers[1].kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "stays", Labels: map[string]string{"app": "stays"}},
		Spec:       corev1.PodSpec{NodeName: victim.name, Containers: []corev1.Container{hello()}},
	}, metav1.CreateOptions{})
	ok(t, err)
	before := peers[1].runs(t, ns, "stays", 1)[0]
	writes := startLoad(t, ns, all()...)
	writesPass(t, writes, 100)
	ok(t, cell.Kill(within(t), victim.number))
	time.Sleep(away) // others write meanwhile: that is what it has to catch up with
	writesPass(t, writes, 100)
	ok(t, cell.Start(within(t), victim.number))
	up := time.Now()
	writesPass(t, writes, 50)
	answered := writes.end()
	writes.unanswered(t, others(victim)...)
	eventually(t, "the peer that was killed has every answered write", func() error {
		list, err := victim.kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		there := names(list)
		for _, name := range answered {
			if !there[name] {
				return fmt.Errorf("it lacks %s", name)
			}
		}
		return nil
	})
	t.Logf("%d answered writes; all on the killed peer %s after it was up again", len(answered), time.Since(up).Round(time.Millisecond))
	converged(t)
	held(t, ns, answered, all()...)
	eventually(t, "the pod of the killed host runs again", func() error {
		pod, err := peers[2].kube.CoreV1().Pods(ns).Get(t.Context(), "stays", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.UID != before.UID {
			return errors.New("it is another pod")
		}
		if !ready(pod) || pod.Status.ContainerStatuses[0].RestartCount == 0 {
			return fmt.Errorf("ready %v: %+v", ready(pod), pod.Status.ContainerStatuses)
		}
		return nil
	})
}

func writesPass(t *testing.T, l *load, more int) {
	t.Helper()
	target := l.count() + more
	eventually(t, "writes pass", func() error {
		if n := l.count(); n < target {
			return fmt.Errorf("%d of %d", n, target)
		}
		return nil
	})
}

// TestKillLeader kills the peers that run the controllers and the scheduler.
func TestKillLeader(t *testing.T) {
	for _, work := range []string{"controllers", "scheduler"} {
		t.Run(work, func(t *testing.T) { killLeader(t, work) })
	}
}

func killLeader(t *testing.T, work string) {
	whole(t)
	var old *peer
	eventually(t, "somebody leads", func() (err error) {
		old, err = leader(t, work)
		return err
	})
	other := others(old)[0]
	ns := space(t, other)
	ok(t, cell.Kill(within(t), old.number))
	// Until somebody knows, a pod may be bound to the dead host, and stays so.
	eventually(t, "the host is called failed", func() error {
		node, err := other.kube.CoreV1().Nodes().Get(t.Context(), old.name, metav1.GetOptions{})
		if err == nil && readiness(node) == corev1.ConditionTrue {
			err = errors.New("its node is ready")
		}
		return err
	})
	_, err := other.kube.AppsV1().Deployments(ns).Create(t.Context(), deployment("after", 3), metav1.CreateOptions{})
	ok(t, err)
	other.runs(t, ns, "after", 3, old)
	ok(t, cell.Start(within(t), old.number))
	whole(t)
	nothingTwice(t, other.runs(t, ns, "after", 3))
}

// TestLeadAgain: a peer that has led before places pods when it leads again. The
// first peer has, while it was the only one.
func TestLeadAgain(t *testing.T) {
	whole(t)
	p := peers[1]
	ns := space(t, p)
	ok(t, cell.Cut(within(t), p.number))
	pods := p.kube.CoreV1().Pods(ns)
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "alone"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{hello()}},
	}, metav1.CreateOptions{})
	ok(t, err)
	took := eventually(t, "the peer that was cut off places a pod", func() error {
		pod, err := pods.Get(t.Context(), "alone", metav1.GetOptions{})
		if err == nil && pod.Spec.NodeName == "" {
			err = errors.New("it is not placed")
		}
		return err
	})
	t.Logf("placed %s after the cut", took)
	ok(t, cell.Heal(within(t)))
	whole(t)
}

// TestEndpointsLeaveWithTheirHost: nobody is sent to a pod of a host that was
// called failed, and it is called again when its host is back.
func TestEndpointsLeaveWithTheirHost(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	victim := peers[5]
	for _, p := range all() {
		_, err := p.kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "on-" + p.name, Labels: map[string]string{"app": "net"}},
			Spec:       corev1.PodSpec{NodeName: p.name, Containers: []corev1.Container{hello()}},
		}, metav1.CreateOptions{})
		ok(t, err)
	}
	service, err := peers[1].kube.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "net"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "net"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	ok(t, err)
	peers[1].runs(t, ns, "net", nodes)
	calls := func(p *peer) (string, error) {
		return p.exec(t, ns, "on-"+p.name, "hello", "get", "http://"+service.Spec.ClusterIP, fmt.Sprint(callsToAll))
	}
	for _, p := range others(victim) {
		balances(t, "from a pod on "+p.name, func() (string, error) { return calls(p) })
	}
	ok(t, cell.Kill(within(t), victim.number))
	for _, p := range others(victim) {
		took := eventually(t, "from a pod on "+p.name+" all calls are answered by others", func() error {
			out, err := calls(p)
			if err == nil && strings.Contains(out, "on-"+victim.name) {
				err = errors.New("the host that was killed answers")
			}
			return err
		})
		t.Logf("%s after %s", p.name, took)
	}
	ok(t, cell.Start(within(t), victim.number))
	for _, p := range all() {
		balances(t, "from a pod on "+p.name, func() (string, error) { return calls(p) })
	}
}
