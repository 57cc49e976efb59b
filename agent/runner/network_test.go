package runner

import (
	"context"
	"reflect"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"shoal/netdp/driver"
)

// telling is a driver that notes what it is told, and has something to say.
type telling struct {
	driver.Driver
	told chan driver.Pod
}

func (d telling) Attach(ctx context.Context, pod driver.Pod) (driver.Attachment, error) {
	got, err := d.Driver.Attach(ctx, pod)
	got.Warnings = append(got.Warnings, driver.Warning{Reason: "NetworkCheckFailed", Message: "a cable is loose"})
	d.told <- pod
	return got, err
}

// TestNetworkDriver: a driver is told what it may need of a pod, and its warnings
// become Events.
func TestNetworkDriver(t *testing.T) {
	b := newBed(t)
	d := telling{b.runner.Network, make(chan driver.Pod, 1)}
	b.runner.Network = d
	p := pod("told", sleeper, func(p *v1.Pod) {
		p.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "1M"}
		p.Spec.DNSPolicy = v1.DNSNone
		p.Spec.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"192.0.2.53"}, Searches: []string{"example.org"}}
		p.Spec.Containers[0].Ports = []v1.ContainerPort{
			{ContainerPort: 80, HostPort: 8080, Protocol: v1.ProtocolTCP, HostIP: "192.0.2.1"}, {ContainerPort: 81, Protocol: v1.ProtocolTCP},
		}
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	got := <-d.told
	want := []driver.HostPort{{Host: 8080, Container: 80, Protocol: v1.ProtocolTCP, Address: "192.0.2.1"}}
	if !reflect.DeepEqual(got.HostPorts, want) || got.Annotations["kubernetes.io/egress-bandwidth"] != "1M" || got.Name != p.Name || got.UID != string(p.UID) {
		t.Errorf("told: %+v", got)
	}
	dns, err := got.DNS(context.Background())
	if err != nil || !reflect.DeepEqual(dns.Servers, []string{"192.0.2.53"}) || !reflect.DeepEqual(dns.Searches, []string{"example.org"}) {
		t.Errorf("DNS: %+v, %v", dns, err)
	}
	if e := b.event(p, "NetworkCheckFailed"); !strings.Contains(e, "a cable is loose") {
		t.Error(e)
	}
	b.remove(p)
}
