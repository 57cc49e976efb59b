package oci

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kubernetes/pkg/kubelet/util/format"
	"k8s.io/kubernetes/pkg/securitycontext"
)

// UserRequest is what decides who a container runs as, beside its image.
type UserRequest struct {
	User  string // in the image's own syntax: user[:group], by name or number
	Merge bool   // groups of the image's /etc/group count too
}

// RequestUser applies the pod's wishes over the image's user, which is root
// when it says nothing.
func RequestUser(pod *v1.Pod, c *v1.Container, imageUser string) UserRequest {
	sc := securitycontext.DetermineEffectiveSecurityContext(pod, c)
	user := imageUser
	if sc.RunAsUser != nil {
		user = strconv.FormatInt(*sc.RunAsUser, 10)
	}
	if user == "" {
		user = "0"
	}
	if sc.RunAsGroup != nil {
		name, _, _ := strings.Cut(user, ":")
		user = name + ":" + strconv.FormatInt(*sc.RunAsGroup, 10)
	}
	r := UserRequest{User: user, Merge: true}
	if p := pod.Spec.SecurityContext; p != nil && p.SupplementalGroupsPolicy != nil {
		r.Merge = *p.SupplementalGroupsPolicy != v1.SupplementalGroupsPolicyStrict
	}
	return r
}

// FindUser looks a request up in the root file system that record names. Its
// first group is the user's own.
func FindUser(ctx context.Context, client oci.Client, record *containers.Container, r UserRequest) (*specs.User, error) {
	s := &oci.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	if err := oci.WithUser(r.User)(ctx, client, record, s); err != nil {
		return nil, createError("find user %q in the image: %w", r.User, err)
	}
	user := s.Process.User
	if r.Merge {
		name, _, _ := strings.Cut(r.User, ":")
		if err := oci.WithAdditionalGIDs(name)(ctx, client, record, s); err != nil {
			return nil, createError("find groups of user %q in the image: %w", name, err)
		}
	}
	user.AdditionalGids = addGroups([]uint32{user.GID}, s.Process.User.AdditionalGids...)
	return &user, nil
}

// addGroups adds what is not there yet, to a copy.
func addGroups(have []uint32, more ...uint32) []uint32 {
	out := slices.Clone(have)
	for _, g := range more {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

func withUser(in Input) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Process.User = in.User
		for _, g := range in.Groups {
			s.Process.User.AdditionalGids = addGroups(s.Process.User.AdditionalGids, uint32(g))
		}
		return nil
	}
}

// CheckNonRoot is the kubelet's verifyRunAsNonRoot: with runAsNonRoot the user
// must be known to be another than root, so an image's may not be a name.
func CheckNonRoot(pod *v1.Pod, c *v1.Container, imageUser string) error {
	sc := securitycontext.DetermineEffectiveSecurityContext(pod, c)
	if sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot {
		return nil
	}
	if sc.RunAsUser != nil {
		if *sc.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", format.Pod(pod), c.Name)
		}
		return nil
	}
	name, _, _ := strings.Cut(imageUser, ":")
	if name == "" {
		name = "0"
	}
	uid, err := strconv.ParseInt(name, 10, 64)
	switch {
	case err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", name, format.Pod(pod), c.Name)
	case uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", format.Pod(pod), c.Name)
	}
	if problems := validation.IsValidUserID(uid); len(problems) > 0 {
		return fmt.Errorf("container has runAsNonRoot and image has an invalid user id (%d). (Must be 1-(%d)): %s (pod: %q, container: %s)",
			uid, math.MaxInt32, strings.Join(problems, "; "), format.Pod(pod), c.Name)
	}
	return nil
}
