package netdp

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/netdp/policy"
)

// A pod that the API does not have (a static one whose mirror is refused, or one that
// was deleted by force while the daemon was away) is under its policies, and no longer
// held, with the daemon that made it and with the next.
func TestPolicyOfPodsTheAPIDoesNotHave(t *testing.T) {
	p := newPolicyLab(t)
	ctx := context.Background()
	attach := func(obj *corev1.Pod) (ns namespace, addr string) {
		path, ips, err := p.d.AttachTo(ctx, string(obj.UID), obj.Namespace, obj.Name, "", policy.IdentityOf(obj))
		p.must(err)
		ns, err = openNamespace(path)
		p.must(err)
		t.Cleanup(ns.close)
		return ns, ips[0].String() + ":80"
	}
	static := podObject("default", "static", map[string]string{"app": "web"})
	deleted := podObject("default", "deleted", map[string]string{"app": "old"})
	p.create(deleted)
	friend, _ := p.start(podObject("default", "friend", map[string]string{"app": "friend"}))
	stranger, _ := p.start(podObject("default", "stranger", nil))
	staticNS, toStatic := attach(static)
	deletedNS, toDeleted := attach(deleted)
	p.serveTCP(staticNS, ":80", "static")
	p.serveTCP(deletedNS, ":80", "deleted")
	p.apply(friendsOfWeb())
	ways := []way{
		{"a friend calls the static pod", friend, "tcp4", toStatic, true},
		{"a stranger calls the static pod", stranger, "tcp4", toStatic, false},
		{"a stranger calls the other", stranger, "tcp4", toDeleted, true},
	}
	p.expect("with the daemon that made them", ways...)

	// Its labels change while it runs: the next daemon knows the last ones.
	deleted.Labels = map[string]string{"app": "web"}
	_, err := p.client.CoreV1().Pods("default").Update(ctx, deleted, metav1.UpdateOptions{})
	p.must(err)
	ways[2].allowed = false
	ways = append(ways, way{"a friend calls the other", friend, "tcp4", toDeleted, true})
	p.expect("with other labels", ways[2], ways[3])
	p.until("the host notes the labels", func() bool {
		d := p.d.pods
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.byUID["deleted"].record.Identity.Labels["app"] == "web"
	})

	p.stop()
	p.must(p.d.Close())
	p.must(p.client.CoreV1().Pods("default").Delete(ctx, "deleted", metav1.DeleteOptions{}))
	p.d = p.open()
	p.enforce()
	p.expect("with the next daemon", ways...)
}

func friendsOfWeb() *networkingv1.NetworkPolicy {
	p := netpol("allow", "web")
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{fromPods("friend")}
	return p
}

// A pod of a daemon that noted no labels has its policies once it is attached again.
func TestPolicyOfPodsKnownLater(t *testing.T) {
	p := newPolicyLab(t)
	static := podObject("default", "static", map[string]string{"app": "web"})
	static.ResourceVersion = "unknown"
	ns, addr := p.attach(p.d, static)
	friend, _ := p.start(podObject("default", "friend", map[string]string{"app": "friend"}))
	p.serveTCP(ns, ":80", "static")
	p.apply(friendsOfWeb())
	call := way{"a friend calls it", friend, "tcp4", addr.String() + ":80", false}
	p.expect("held", call)
	_, _, err := p.d.AttachTo(t.Context(), "static", "default", "static", "", policy.IdentityOf(static))
	p.must(err)
	call.allowed = true
	p.expect("known", call)
}
