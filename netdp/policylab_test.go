package netdp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"shoal/netdp/policy"
	"shoal/test/eventually"
)

// policyLab is a lab with an API and the controller of policies.
type policyLab struct {
	*lab
	d      *Datapath
	client kubernetes.Interface
	stop   func() // the controller
}

func newPolicyLab(t testing.TB) *policyLab { return policyLabOn(newLab(t)) }

func policyLabOn(l *lab) *policyLab {
	t := l.t
	p := &policyLab{lab: l, d: l.open(), client: fake.NewClientset()}
	t.Cleanup(func() {
		p.stop()
		if err := p.d.Remove(); err != nil {
			t.Error(err)
		}
	})
	p.enforce()
	return p
}

// enforce starts a controller and waits until it has written all it knows.
func (p *policyLab) enforce() {
	p.t.Helper()
	p.stop = startPolicy(p.lab, p.d, p.client)
}

func startPolicy(l *lab, d *Datapath, client kubernetes.Interface) (stop func()) {
	l.t.Helper()
	factory := informers.NewSharedInformerFactory(client, 0)
	c, err := policy.New(d, factory, newTestLogger(l.t))
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			l.t.Error(err)
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		running.Wait()
		factory.Shutdown()
	})
}

// podObject is a pod as the API has it.
func podObject(namespace, name string, labels map[string]string, ports ...corev1.ContainerPort) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Ports: ports}}},
	}
}

// start makes a pod of the API with a network, as the agent does.
func (p *policyLab) start(obj *corev1.Pod) (namespace, netip.Addr) {
	p.t.Helper()
	p.create(obj)
	return p.attach(p.d, obj)
}

func (p *policyLab) create(obj *corev1.Pod) {
	p.t.Helper()
	_, err := p.client.CoreV1().Pods(obj.Namespace).Create(context.Background(), obj, metav1.CreateOptions{})
	p.must(err)
}

func (p *policyLab) attach(d *Datapath, obj *corev1.Pod) (namespace, netip.Addr) {
	p.t.Helper()
	path, ips, err := d.Attach(context.Background(), string(obj.UID), obj.Namespace, obj.Name)
	p.must(err)
	ns, err := openNamespace(path)
	p.must(err)
	p.t.Cleanup(ns.close)
	obj = obj.DeepCopy()
	obj.Status.Phase = corev1.PodRunning
	for _, ip := range ips {
		obj.Status.PodIPs = append(obj.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	if obj.ResourceVersion != "unknown" {
		_, err = p.client.CoreV1().Pods(obj.Namespace).Update(context.Background(), obj, metav1.UpdateOptions{})
		p.must(err)
	}
	return ns, ips[0]
}

func (p *policyLab) apply(n *networkingv1.NetworkPolicy) {
	p.t.Helper()
	policies := p.client.NetworkingV1().NetworkPolicies(n.Namespace)
	_ = policies.Delete(context.Background(), n.Name, metav1.DeleteOptions{})
	_, err := policies.Create(context.Background(), n, metav1.CreateOptions{})
	p.must(err)
}

func (p *policyLab) remove(namespace, name string) {
	p.t.Helper()
	p.must(p.client.NetworkingV1().NetworkPolicies(namespace).Delete(context.Background(), name, metav1.DeleteOptions{}))
}

// refusedAfter is how long a packet that a policy dropped is waited for.
const refusedAfter = 150 * time.Millisecond

// reaches tells whether a call is answered within a time.
func reaches(ns namespace, network, addr string, within time.Duration) bool {
	var c net.Conn
	err := ns.do(func() (err error) {
		c, err = net.DialTimeout(network, addr, within)
		return err
	})
	if err != nil {
		return false
	}
	defer c.Close()
	return answeredWithin(c, within)
}

// answered tells whether an open connection still is: by this question and not
// by one that was answered late.
func answered(c net.Conn) bool { return answeredWithin(c, refusedAfter) }

func answeredWithin(c net.Conn, within time.Duration) bool {
	question := fmt.Sprintf("q%d.", questions.Add(1))
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return false
	}
	if _, err := c.Write([]byte(question)); err != nil {
		return false
	}
	var heard []byte
	buf := make([]byte, 1024)
	for !bytes.Contains(heard, []byte(question)) {
		n, err := c.Read(buf)
		if err != nil {
			return false
		}
		heard = append(heard, buf[:n]...)
	}
	return true
}

var questions atomic.Int64

// until waits for what the controller brings about.
func (l *lab) until(what string, holds func() bool) {
	l.t.Helper()
	eventually.True(l.t, what, holds)
}

// way is a call between two ends.
type way struct {
	name    string
	from    namespace
	network string
	to      string
	allowed bool
}

// expect waits for the first way that is as it should be and then wants all of
// them so. The first one tells that the policy is in effect, unless the host is so
// busy that a call takes longer than refusedAfter: then one that is to be refused
// may look so too early, and those after it have some more tries.
func (l *lab) expect(when string, ways ...way) {
	l.t.Helper()
	within := refusedAfter
	l.until(when+": "+ways[0].name, func() bool {
		if reaches(ways[0].from, ways[0].network, ways[0].to, within) == ways[0].allowed {
			return true
		}
		within = min(2*within, ioTimeout)
		return false
	})
	for _, w := range ways {
		if w.allowed {
			if !reaches(w.from, w.network, w.to, ioTimeout) {
				l.t.Errorf("%s: %s: not reached", when, w.name)
			}
			continue
		}
		l.until(when+": "+w.name+" is refused", func() bool { return !reaches(w.from, w.network, w.to, refusedAfter) })
	}
}
