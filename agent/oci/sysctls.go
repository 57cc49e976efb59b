package oci

import (
	"context"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	utilsysctl "k8s.io/component-helpers/node/util/sysctl"
)

// Settings that containerd's CRI plug-in makes in a pod's network by default
// since 2.0: users other than root may serve ports below 1024, and ping.
const (
	unprivilegedPorts, everyPort = "net.ipv4.ip_unprivileged_port_start", "0"
	pingGroups, everyGroup       = "net.ipv4.ping_group_range", "0 2147483647"
	// A user namespace takes no group that it does not map.
	everyMapped = "0 65535"
)

func withSysctls(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		set := map[string]string{}
		if in.Namespaces.Net != "" {
			set[unprivilegedPorts], set[pingGroups] = everyPort, everyGroup
			if in.Namespaces.User != "" {
				set[pingGroups] = everyMapped
			}
		}
		if pod := in.Pod.Spec.SecurityContext; pod != nil {
			for _, c := range pod.Sysctls {
				set[utilsysctl.NormalizeName(c.Name)] = c.Value
			}
		}
		if len(set) > 0 {
			s.Linux.Sysctl = set
		}
		return nil
	}
}
