package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	events "k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/network/dns"
)

// podDNS is the pod's resolver, by upstream's rules: its policy, merged with
// its dnsConfig, within what resolvers take. Without a cluster DNS the host's
// resolver serves those who wish for one.
func (r *Runner) podDNS(ctx context.Context, pod *v1.Pod) (*runtimeapi.DNSConfig, error) {
	host := resolvPath
	if _, err := os.Stat(host); errors.Is(err, fs.ErrNotExist) {
		host = "" // upstream then names the host itself as server
	}
	cluster := r.ClusterDNS
	if r.DNSAddress != nil {
		cluster = []netip.Addr{r.DNSAddress()}
	}
	servers := make([]net.IP, 0, len(cluster))
	for _, a := range cluster {
		servers = append(servers, a.AsSlice())
	}
	node := &v1.ObjectReference{Kind: "Node", Name: r.NodeName}
	c := dns.NewConfigurer(dnsEvents{r.Sink}, node, nil, servers, r.ClusterDomain, host)
	// Upstream also logs what it says in events; the events are enough.
	config, err := c.GetPodDNS(klog.NewContext(ctx, klog.Logger{}), pod)
	if err != nil {
		return nil, fmt.Errorf("find the pod's DNS settings: %w", err)
	}
	return config, nil
}

// missingDNS is upstream's event for each pod that wants a cluster DNS of an
// agent that was given none; the daemon's always has one. It is not passed on:
// it would be one write more per pod.
const missingDNS = "MissingClusterDNS"

// dnsEvents hands upstream's events about a pod's DNS to the runner's sink.
type dnsEvents struct{ sink Sink }

// Event implements record.EventRecorder.
func (d dnsEvents) Event(object runtime.Object, kind, reason, message string) {
	if pod, ok := object.(*v1.Pod); ok && reason != missingDNS {
		d.sink.Event(pod, kind, reason, message)
	}
}

// Eventf implements record.EventRecorder.
func (d dnsEvents) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	d.Event(object, kind, reason, fmt.Sprintf(format, args...))
}

// AnnotatedEventf implements record.EventRecorder; annotations are dropped.
func (d dnsEvents) AnnotatedEventf(object runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	d.Eventf(object, kind, reason, format, args...)
}

// WithLogger implements record.EventRecorderLogger.
func (d dnsEvents) WithLogger(klog.Logger) events.EventRecorderLogger { return d }
