package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fingerprint keys pulls in flight so that one caller's rights are never
// lent to another.
func (c Credentials) fingerprint() string {
	sum := sha256.Sum256([]byte(c.Username + "\x00" + c.Password + "\x00" + c.secret.uid))
	return hex.EncodeToString(sum[:])
}

// Pull fetches and unpacks ref as its registry has it now, trying each of
// creds in turn, then those of this host, and without any where there are
// none. Blobs come from peers where they have them. report may be nil; it is
// called by this goroutine, about twice a second while something moves.
func (s *Store) Pull(ctx context.Context, ref string, creds []Credentials, report func(Progress)) (*Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	if report == nil {
		report = func(Progress) {}
	}
	repository, err := Repository(name)
	if err != nil {
		return nil, err
	}
	creds = append(creds[:len(creds):len(creds)], s.fileCredentials(repository)...)
	if len(creds) == 0 {
		creds = []Credentials{{}}
	}
	var failures []string
	for _, c := range creds {
		var img *Image
		img, err = s.join(ctx, "pull "+name+" "+c.fingerprint(), name, report, func(ctx context.Context, p *progress) (*Image, error) {
			return s.pull(ctx, name, c, p)
		})
		if err == nil {
			return img, nil
		}
		if text := err.Error(); len(failures) == 0 || failures[len(failures)-1] != text {
			failures = append(failures, text)
		}
		if !mayBeRights(err) {
			break
		}
	}
	if len(failures) > 1 {
		err = fmt.Errorf("%s; with other credentials: %w", strings.Join(failures[:len(failures)-1], "; "), err)
	}
	return nil, fmt.Errorf("failed to pull and unpack image %q: %w", name, explain(err))
}

func (s *Store) pull(ctx context.Context, name string, c Credentials, p *progress) (*Image, error) {
	p.set("resolving")
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, err
	}
	registry := s.registry(ctx, named, c)
	target, err := s.resolve(ctx, registry, name)
	if err != nil {
		return nil, err
	}
	before := s.grantsBefore(ctx, name, target.Digest)
	remote, err := registry.Fetcher(ctx, name)
	if err != nil {
		return nil, err
	}
	f := &fetch{s: s, remote: remote, registry: reference.Domain(named), progress: p}
	record, err := s.fetchAll(ctx, f, name, target, map[string]string{labelSource: sourcePull})
	if err != nil {
		return nil, err
	}
	if record, err = s.noteAccess(ctx, record, before, c); err != nil {
		return nil, err
	}
	return s.load(ctx, record)
}

// resolveTimeout bounds asking a registry what a name means.
const resolveTimeout = time.Minute

func (s *Store) resolve(ctx context.Context, registry remotes.Resolver, name string) (ocispec.Descriptor, error) {
	limited, cancel := context.WithTimeoutCause(ctx, resolveTimeout, errStalled)
	defer cancel()
	_, target, err := registry.Resolve(limited, name)
	if err == nil {
		return target, nil
	}
	if ctx.Err() == nil && limited.Err() != nil {
		err = fmt.Errorf("no answer for %s: %w", resolveTimeout, errStalled)
	}
	return target, fmt.Errorf("failed to resolve reference %q: %w", name, err)
}

// fetchAll brings an image whose digest is known here, unpacked, under name.
func (s *Store) fetchAll(ctx context.Context, f *fetch, name string, target ocispec.Descriptor, labels map[string]string) (images.Image, error) {
	f.progress.set("pulling")
	l, err := s.lease(ctx, name)
	if err != nil {
		return images.Image{}, err
	}
	guarded, stop := s.guard(l.ctx)
	defer stop()
	handle, err := s.client.Pull(guarded, name,
		containerd.WithResolver(resolved{target}),
		containerd.WithImageHandler(images.HandlerFunc(f.handle)),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(s.snapshotter),
		containerd.WithPullLabels(labels),
		containerd.WithPlatformMatcher(platform))
	if cause := context.Cause(guarded); err != nil && isNoSpace(cause) {
		err = cause
	}
	if err != nil {
		l.failed(f, err)
		return images.Image{}, err
	}
	l.done()
	f.progress.set("pulled")
	return handle.Metadata(), nil
}

// resolved answers for a name whose digest is known, and fetches nothing: the
// fetch, which goes first, has brought every blob by then.
type resolved struct{ target ocispec.Descriptor }

func (r resolved) Resolve(_ context.Context, name string) (string, ocispec.Descriptor, error) {
	return name, r.target, nil
}

func (r resolved) Fetcher(context.Context, string) (remotes.Fetcher, error) {
	return remotes.FetcherFunc(func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return nil, errNotBrought }), nil
}

func (r resolved) Pusher(context.Context, string) (remotes.Pusher, error) {
	return nil, errdefs.ErrNotImplemented
}

var errNotBrought = errors.New("blob was collected while its image was being pulled; the pull is tried again")
