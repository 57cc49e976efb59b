package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"shoal/netdp/driver"
)

// Annotations of pods that the plugin bandwidth acts on, as in Kubernetes.
const (
	ingressBandwidth = "kubernetes.io/ingress-bandwidth"
	egressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// Bounds that Kubernetes has for them, in bits per second.
var (
	minBandwidth = resource.MustParse("1k")
	maxBandwidth = resource.MustParse("1P")
)

// The well-known capabilities and their forms are those of
// https://www.cni.dev/docs/conventions/; libcni gives each plugin those that its
// configuration names.
type (
	portMapping struct {
		HostPort      int32  `json:"hostPort"`
		ContainerPort int32  `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP,omitempty"`
	}
	bandwidth struct {
		IngressRate  uint64 `json:"ingressRate,omitempty"`
		IngressBurst uint64 `json:"ingressBurst,omitempty"`
		EgressRate   uint64 `json:"egressRate,omitempty"`
		EgressBurst  uint64 `json:"egressBurst,omitempty"`
	}
	dns struct {
		Servers  []string `json:"servers,omitempty"`
		Searches []string `json:"searches,omitempty"`
		Options  []string `json:"options,omitempty"`
	}
	ipRange struct {
		Subnet string `json:"subnet"`
	}
)

// capabilities are what plugins may ask to be told of a pod and this host.
func (d *Driver) capabilities(ctx context.Context, pod driver.Pod) (map[string]any, error) {
	out := map[string]any{}
	if len(pod.HostPorts) > 0 {
		out["portMappings"] = portMappings(pod.HostPorts)
	}
	limits, err := bandwidthOf(pod.Annotations)
	if err != nil {
		return nil, err
	}
	if limits != (bandwidth{}) {
		out["bandwidth"] = limits
	}
	if pod.DNS != nil {
		c, err := pod.DNS(ctx)
		if err != nil {
			return nil, err
		}
		out["dns"] = dns(c)
	}
	if ranges := d.ipRanges(); len(ranges) > 0 {
		out["ipRanges"] = ranges
	}
	return generic(out)
}

// generic has every value in the form it has when it is read again, so that a
// plugin is told the same by every daemon.
func generic(in map[string]any) (out map[string]any, err error) {
	data, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	return out, err
}

func portMappings(ports []driver.HostPort) []portMapping {
	out := make([]portMapping, len(ports))
	for i, p := range ports {
		proto := p.Protocol
		if proto == "" {
			proto = v1.ProtocolTCP
		}
		out[i] = portMapping{HostPort: p.Host, ContainerPort: p.Container, Protocol: strings.ToLower(string(proto)), HostIP: p.Address}
	}
	return out
}

// bandwidthOf reads the annotations; without a burst of their own, a limit's is
// the largest that the plugin takes.
func bandwidthOf(annotations map[string]string) (b bandwidth, err error) {
	if b.IngressRate, err = rate(annotations, ingressBandwidth); err != nil {
		return b, err
	}
	if b.EgressRate, err = rate(annotations, egressBandwidth); err != nil {
		return b, err
	}
	if b.IngressRate > 0 {
		b.IngressBurst = math.MaxUint32
	}
	if b.EgressRate > 0 {
		b.EgressBurst = math.MaxUint32
	}
	return b, nil
}

func rate(annotations map[string]string, name string) (uint64, error) {
	text, ok := annotations[name]
	if !ok {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Cmp(minBandwidth) < 0 || q.Cmp(maxBandwidth) > 0 {
		return 0, fmt.Errorf("annotation %s is %q: want bits per second from 1k to 1P, as in 10M", name, text)
	}
	return uint64(q.Value()), nil
}

// ipRanges is this host's part of the cell's range, as a set for each family:
// where host-local gets what it has no range of its own for.
func (d *Driver) ipRanges() [][]ipRange {
	var out [][]ipRange
	for _, p := range d.o.PodCIDRs {
		if p.IsValid() {
			out = append(out, []ipRange{{Subnet: p.String()}})
		}
	}
	return out
}
