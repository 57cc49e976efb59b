package oci

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	capabilities "github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

const capAll = "CAP_ALL"

func withCapabilities(want *v1.Capabilities) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, r *containers.Container, s *specs.Spec) error {
		if want == nil {
			return nil
		}
		add, drop := capNames(want.Add), capNames(want.Drop)
		// ALL first, single ones after: drop ALL with an added one keeps
		// that one, add ALL with a dropped one loses it.
		if slices.Contains(add, capAll) {
			if err := oci.WithCapabilities(capabilities.Known())(ctx, c, r, s); err != nil {
				return err
			}
		}
		if slices.Contains(drop, capAll) {
			if err := oci.WithCapabilities(nil)(ctx, c, r, s); err != nil {
				return err
			}
		}
		if err := oci.WithAddedCapabilities(withoutAll(add))(ctx, c, r, s); err != nil {
			return err
		}
		return oci.WithDroppedCapabilities(withoutAll(drop))(ctx, c, r, s)
	}
}

// withoutAmbient takes what a program would keep over exec without asking, as
// containerd does for the kubelet: a user other than root gets no capability
// that its program's file does not grant.
func withoutAmbient(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	if c := s.Process.Capabilities; c != nil {
		c.Ambient, c.Inheritable = nil, nil
	}
	return nil
}

func capNames(in []v1.Capability) []string {
	out := make([]string, 0, len(in))
	for _, c := range in {
		name := strings.ToUpper(string(c))
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		out = append(out, name)
	}
	return out
}

func withoutAll(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == capAll })
}
