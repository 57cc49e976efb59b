package runner

import (
	"encoding/json"
	"sync"

	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/oci"
)

// userCacheMax bounds remembered users; one entry per image and request.
const userCacheMax = 256

// userCache remembers what a request for a user means in an image. What it
// gives is shared and must not be changed.
type userCache struct {
	mu    sync.Mutex
	known map[userKey]*specs.User // guarded by mu
}

type userKey struct {
	chain string // of the image's layers
	want  oci.UserRequest
}

func (u *userCache) get(chain string, want oci.UserRequest) *specs.User {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.known[userKey{chain, want}]
}

func (u *userCache) put(chain string, want oci.UserRequest, is *specs.User) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil || len(u.known) >= userCacheMax {
		u.known = map[userKey]*specs.User{}
	}
	u.known[userKey{chain, want}] = is
}

// userOf is who the container's first process begins as, in a status's form.
func userOf(spec *specs.Spec) *v1.ContainerUser {
	if spec == nil || spec.Process == nil {
		return nil
	}
	u := spec.Process.User
	linux := &v1.LinuxContainerUser{UID: int64(u.UID), GID: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		linux.SupplementalGroups = append(linux.SupplementalGroups, int64(g))
	}
	return &v1.ContainerUser{Linux: linux}
}

// recordedUser is userOf for the specification containerd keeps.
func recordedUser(recorded typeurl.Any) *v1.ContainerUser {
	if recorded == nil {
		return nil
	}
	var spec struct{ Process *specs.Process }
	if json.Unmarshal(recorded.GetValue(), &spec) != nil {
		return nil
	}
	return userOf(&specs.Spec{Process: spec.Process})
}
