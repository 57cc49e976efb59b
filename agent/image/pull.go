package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Credentials log in to a registry; the zero value is anonymous.
type Credentials struct {
	Username string
	Password string
}

// fingerprint keys pulls in flight so that one caller's rights are never
// lent to another.
func (c Credentials) fingerprint() string {
	sum := sha256.Sum256([]byte(c.Username + "\x00" + c.Password))
	return hex.EncodeToString(sum[:])
}

// Pull fetches and unpacks ref, trying each of creds in turn (none means
// anonymous). report may be nil.
func (s *Store) Pull(ctx context.Context, ref string, creds []Credentials, report func(Progress)) (*Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	if report == nil {
		report = func(Progress) {}
	}
	if len(creds) == 0 {
		creds = []Credentials{{}}
	}
	var last error
	for _, c := range creds {
		img, err := s.pullShared(ctx, name, c, report)
		if err == nil {
			return img, nil
		}
		last = err
	}
	return nil, fmt.Errorf("pull image %s: %w", name, last)
}

// pullShared joins a pull of the same name and rights that is running. A
// caller that gives up leaves the pull to the others.
func (s *Store) pullShared(ctx context.Context, name string, c Credentials, report func(Progress)) (*Image, error) {
	result := s.pulls.DoChan("pull "+name+" "+c.fingerprint(), func() (any, error) {
		return s.pull(ctx, name, c, report)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Image), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Store) pull(ctx context.Context, name string, c Credentials, report func(Progress)) (*Image, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	report(Progress{Image: name, Status: "resolving"})
	handle, err := s.client.Pull(ctx, name,
		containerd.WithResolver(resolver(c)),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(s.snapshotter),
		containerd.WithPullLabel(labelSource, sourcePull),
		containerd.WithPlatformMatcher(s.platform()),
		containerd.WithImageHandlerWrapper(reporting(name, report)))
	if err != nil {
		return nil, err
	}
	return s.load(ctx, handle.Metadata())
}

func (s *Store) platform() platforms.MatchComparer { return platforms.Default() }

// reporting tells of every blob as its fetch begins and ends.
func reporting(name string, report func(Progress)) func(images.Handler) images.Handler {
	return func(h images.Handler) images.Handler {
		return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			short := desc.Digest.Encoded()[:12]
			report(Progress{Image: name, Status: "fetching " + short, Total: desc.Size})
			children, err := h.Handle(ctx, desc)
			if err == nil {
				report(Progress{Image: name, Status: "fetched " + short, Bytes: desc.Size, Total: desc.Size})
			}
			return children, err
		})
	}
}

// transport is shared by all pulls, so that connections are reused and idle
// ones end.
var transport = docker.DefaultHTTPTransport(nil)

// resolver speaks plain http to registries on loopback, as Docker does.
func resolver(c Credentials) remotes.Resolver {
	authorizer := docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) {
		return c.Username, c.Password, nil
	}))
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			docker.WithPlainHTTP(docker.MatchLocalhost),
			docker.WithAuthorizer(authorizer),
			docker.WithClient(&http.Client{Transport: transport})),
	})
}

// Registry is the host of ref's registry, for finding credentials.
func Registry(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("parse image name %q: %w", ref, err)
	}
	return reference.Domain(named), nil
}
