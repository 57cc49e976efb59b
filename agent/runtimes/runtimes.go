// Package runtimes knows the OCI runtimes of this host by the handler names
// that RuntimeClasses use, and what each can do.
//
// Always true: there is a runtime for the handlers "" and "runc"; what a
// runtime can do is asked of it once; a runtime that does not answer can do
// nothing special.
//
// The daemon parses its flags with it, the pod runner takes runtimes from it,
// the node's status says what it knows. It runs no containers.
package runtimes

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// RuncShim is containerd's shim for runtimes with runc's command line.
	RuncShim = "io.containerd.runc.v2"
	// Default is the handler that pods without a RuntimeClass get, and its binary.
	Default = "runc"
	// runscOptions is the only type of options that gVisor's shim takes.
	runscShim, runscOptions = "io.containerd.runsc.v1", "io.containerd.runsc.v1.options"
)

// handlersMax bounds the runtimes of one host: each is asked what it can do.
const handlersMax = 32

// Runtime runs containers.
type Runtime struct {
	Handler string
	Shim    string // such as io.containerd.runc.v2
	Binary  string // of the OCI runtime, with RuncShim; a path, or a name in PATH
	Config  string // a configuration file, with other shims; may be empty
}

// Runc reports whether the runtime has runc's command line.
func (r Runtime) Runc() bool { return r.Shim == RuncShim }

// Options are what the shim is told. binary takes the place of the runtime's
// own when it is not empty; owner is who the container's root is on the host,
// to whom its pipes belong.
func (r Runtime) Options(binary string, owner uint32) (typeurl.Any, error) {
	if binary == "" && r.Binary != Default {
		binary = r.Binary
	}
	var value any
	switch {
	case r.Runc() && binary == "" && owner == 0, !r.Runc() && r.Config == "":
		return nil, nil
	case r.Runc():
		value = &options.Options{BinaryName: binary, IoUid: owner, IoGid: owner}
	case r.Shim == runscShim:
		value = &runtimeoptions.Options{TypeUrl: runscOptions, ConfigPath: r.Config}
	default:
		value = &runtimeoptions.Options{ConfigPath: r.Config}
	}
	out, err := typeurl.MarshalAny(value)
	if err != nil {
		return nil, fmt.Errorf("encode options of runtime %s: %w", r.Handler, err)
	}
	return out, nil
}

// Set is the runtimes of a host. It may be used by several goroutines.
type Set struct {
	all []Runtime // ordered by handler, runc first

	mu    sync.Mutex
	known map[string]Features // by handler; guarded by mu
}

// UnknownError says that a host has no runtime of a handler.
type UnknownError struct{ Handler string }

// Error uses containerd's words, which users search for.
func (e UnknownError) Error() string {
	return fmt.Sprintf("no runtime for %q is configured on this host; start shoal with --runtime %s=PATH", e.Handler, e.Handler)
}

// Get gives the runtime of a RuntimeClass's handler, "" being runc.
func (s *Set) Get(handler string) (Runtime, error) {
	if handler == "" {
		handler = Default
	}
	for _, r := range s.all {
		if r.Handler == handler {
			return r, nil
		}
	}
	return Runtime{}, UnknownError{handler}
}

// Parse reads HANDLER=WHAT for each runtime besides runc, which may be named
// to give it another path. WHAT is the path of an OCI runtime, or the name of
// another containerd shim with, after a colon, its configuration file.
func Parse(flags []string) (*Set, error) {
	s := &Set{all: []Runtime{{Handler: Default, Shim: RuncShim, Binary: Default}}, known: map[string]Features{}}
	if len(flags) >= handlersMax {
		return nil, fmt.Errorf("%d runtimes: at most %d are possible", len(flags), handlersMax-1)
	}
	for _, flag := range flags {
		r, err := parse(flag)
		if err != nil {
			return nil, fmt.Errorf("runtime %q: %w", flag, err)
		}
		i := slices.IndexFunc(s.all, func(o Runtime) bool { return o.Handler == r.Handler })
		switch {
		case i == 0 && s.all[0].Binary == Default:
			s.all[0] = r
		case i >= 0:
			return nil, fmt.Errorf("runtime %q: handler %s is named twice", flag, r.Handler)
		default:
			s.all = append(s.all, r)
		}
	}
	slices.SortFunc(s.all[1:], func(a, b Runtime) int { return strings.Compare(a.Handler, b.Handler) })
	return s, nil
}

func parse(flag string) (Runtime, error) {
	handler, what, ok := strings.Cut(flag, "=")
	if !ok || what == "" {
		return Runtime{}, errors.New("write HANDLER=PATH, or HANDLER=SHIM as in kata=io.containerd.kata.v2")
	}
	if problems := validation.IsDNS1123Label(handler); len(problems) > 0 {
		return Runtime{}, fmt.Errorf("handler %q: %s", handler, strings.Join(problems, "; "))
	}
	r := Runtime{Handler: handler}
	if !strings.HasPrefix(what, "io.containerd.") {
		if !filepath.IsAbs(what) {
			return r, errors.New("the path of an OCI runtime must be absolute")
		}
		if _, err := exec.LookPath(what); err != nil {
			return r, fmt.Errorf("find OCI runtime: %w", err)
		}
		r.Shim, r.Binary = RuncShim, what
		return r, nil
	}
	r.Shim, r.Config, _ = strings.Cut(what, ":")
	if r.Runc() {
		return r, fmt.Errorf("for %s write the path of its OCI runtime", RuncShim)
	}
	if r.Config != "" && !filepath.IsAbs(r.Config) {
		return r, errors.New("the path of a configuration file must be absolute")
	}
	return r, nil
}
