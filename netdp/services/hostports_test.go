package services

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// withPorts is a pod with an address, on the node "test".
func withPorts(ports ...corev1.ContainerPort) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"},
		Spec:       corev1.PodSpec{NodeName: "test", Containers: []corev1.Container{{Name: "c", Ports: ports}}},
		Status:     corev1.PodStatus{PodIP: "10.64.8.1", PodIPs: []corev1.PodIP{{IP: "10.64.8.1"}}},
	}
}

func TestHostPorts(t *testing.T) {
	web := corev1.ContainerPort{HostPort: 8080, ContainerPort: 80, Protocol: corev1.ProtocolTCP}
	with := func(edit func(*corev1.Pod)) *corev1.Pod {
		p := withPorts(web)
		edit(p)
		return p
	}
	at := func(ip string) *corev1.Pod {
		return with(func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].HostIP = ip })
	}
	const all = "pod default/web:8080/TCP TCP: 192.0.2.1:8080 outside, 127.0.0.1:8080 -> 10.64.8.1:80"
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"at every address", withPorts(web), all},
		{"all addresses by name", at("0.0.0.0"), "pod default/web:8080/TCP at 0.0.0.0 TCP: 192.0.2.1:8080 outside, 127.0.0.1:8080 -> 10.64.8.1:80"},
		{"at one address", at("192.0.2.1"), "pod default/web:8080/TCP at 192.0.2.1 TCP: 192.0.2.1:8080 outside -> 10.64.8.1:80"},
		{"for the host alone", at("127.0.0.1"), "pod default/web:8080/TCP at 127.0.0.1 TCP: 127.0.0.1:8080 -> 10.64.8.1:80"},
		{"an address of the other family", at("2001:db8::1"), ""},
		{"a port that is not the host's", withPorts(corev1.ContainerPort{ContainerPort: 80}), ""},
		{"two protocols", withPorts(web, corev1.ContainerPort{HostPort: 8080, ContainerPort: 81, Protocol: corev1.ProtocolUDP},
			corev1.ContainerPort{HostPort: 8080, ContainerPort: 82, Protocol: corev1.ProtocolSCTP}),
			all + "\npod default/web:8080/UDP UDP: 192.0.2.1:8080 outside, 127.0.0.1:8080 -> 10.64.8.1:81"},
		{"both families", with(func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"}) }),
			all + "\npod default/web:8080/TCP by IPv6 TCP: [2001:db8::2]:8080 outside, [::1]:8080 -> [fd00::1]:80"},
		{"of the host's network", with(func(p *corev1.Pod) { p.Spec.HostNetwork = true }), ""},
		{"without an address yet", with(func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }), ""},
		{"not ready", with(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), all},
		{"it ends", with(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), all},
		{"ended well", with(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), ""},
		{"failed", with(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), ""},
		{"of a sidecar", with(func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: p.Spec.Containers[0].Ports}}
			p.Spec.Containers[0].Ports = nil
		}), all},
		{"of a container that runs before", with(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Ports: p.Spec.Containers[0].Ports}}
			p.Spec.Containers[0].Ports = nil
		}), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2")}
			if got := render(HostPorts(c.pod, host)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}
