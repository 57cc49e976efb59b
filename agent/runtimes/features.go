package runtimes

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	v1 "k8s.io/api/core/v1"
)

// askTimeout bounds the question to a runtime; runc answers in 10 ms.
const askTimeout = 5 * time.Second

// Features are what a runtime can do beyond what all can.
type Features struct {
	Version string // the first line of --version, "" if it did not say
	// UserNamespaces: it can put a container into a user namespace that is there
	// already. Ids of mounts are mapped before it sees them.
	UserNamespaces bool
	// RecursiveReadOnly: it has the mount option rro (runc 1.1, crun 1.4).
	RecursiveReadOnly bool
}

// Features asks the runtime of a handler, once.
func (s *Set) Features(ctx context.Context, r Runtime) Features {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.known[r.Handler]; ok {
		return f
	}
	f := Features{}
	if r.Runc() {
		f = ask(ctx, r.Binary)
	}
	if ctx.Err() == nil {
		s.known[r.Handler] = f
	}
	return f
}

func ask(ctx context.Context, binary string) Features {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var f Features
	if out, err := exec.CommandContext(ctx, binary, "--version").Output(); err == nil {
		f.Version, _, _ = strings.Cut(string(out), "\n")
	}
	// The command is of the runtime specification 1.1; runc has it since 1.1.
	out, err := exec.CommandContext(ctx, binary, "features").Output()
	if err != nil {
		return f
	}
	return f.with(out)
}

// with adds what the answer to `features` says.
func (f Features) with(answer []byte) Features {
	var got features.Features
	if json.Unmarshal(answer, &got) != nil {
		return f
	}
	f.RecursiveReadOnly = slices.Contains(got.MountOptions, "rro")
	f.UserNamespaces = got.Linux != nil && slices.Contains(got.Linux.Namespaces, "user")
	return f
}

// Status is what a node says of its runtimes. The kernel has a say in user
// namespaces too, so the caller may rule them out.
func (s *Set) Status(ctx context.Context, userNamespaces bool) []v1.NodeRuntimeHandler {
	out := make([]v1.NodeRuntimeHandler, 0, len(s.all)+1)
	for i, r := range s.all {
		f := s.Features(ctx, r)
		users := f.UserNamespaces && userNamespaces
		handler := v1.NodeRuntimeHandler{Name: r.Handler, Features: &v1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: &f.RecursiveReadOnly, UserNamespaces: &users,
		}}
		if i == 0 { // the default has an entry without a name
			out = append(out, v1.NodeRuntimeHandler{Features: handler.Features.DeepCopy()})
		}
		out = append(out, handler)
	}
	return out
}
