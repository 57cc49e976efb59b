package image

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Push sends an image of this host to the registry that target names; an empty
// target is the image's own name. Of an image for several platforms, all that
// is here is sent: the index if it is whole, else this platform's manifest.
func (s *Store) Push(ctx context.Context, ref, target string, creds []Credentials, report func(Progress)) error {
	img, err := s.Get(ctx, ref)
	if err != nil {
		return err
	}
	if target == "" {
		target = img.Name
	}
	if target, err = Normalize(target); err != nil {
		return err
	}
	named, err := reference.ParseDockerRef(target)
	if err != nil {
		return fmt.Errorf("parse image name %q: %w", target, err)
	}
	desc, err := s.whole(ctx, img)
	if err != nil {
		return err
	}
	report(Progress{Image: target, Status: "pushing"})
	creds = append(creds, s.fileCredentials(named.Name())...)
	if len(creds) == 0 {
		creds = []Credentials{{}}
	}
	for _, c := range creds {
		err = s.client.Push(ctx, target, desc,
			containerd.WithResolver(s.registry(ctx, named, c)),
			containerd.WithImageHandlerWrapper(reporting(target, report)))
		if err == nil {
			report(Progress{Image: target, Status: "pushed", Digest: desc.Digest.String()})
			return nil
		}
		if !mayBeRights(err) {
			break
		}
	}
	return fmt.Errorf("push image %s: %w", target, explain(err))
}

// whole is what of the image can be sent: its target if all of it is here, else
// the manifest of this platform.
func (s *Store) whole(ctx context.Context, img *Image) (ocispec.Descriptor, error) {
	record, err := s.client.ImageService().Get(ctx, img.Name)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("look up image %s: %w", img.Name, err)
	}
	if s.complete(ctx, record.Target) {
		return record.Target, nil
	}
	store := s.client.ContentStore()
	var own ocispec.Descriptor
	find := images.FilterPlatforms(images.ChildrenHandler(store), platform)
	err = images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsManifestType(desc.MediaType) && own.Digest == "" {
			own = desc
			return nil, images.ErrSkipDesc
		}
		return find(ctx, desc)
	}), record.Target)
	if err == nil && s.complete(ctx, own) {
		own.Platform = nil
		return own, nil
	}
	return own, fmt.Errorf("push image %s: some of its layers are not kept on this host, as they were unpacked before; pull or load it again", img.Name)
}

// complete reports whether every blob below desc is here.
func (s *Store) complete(ctx context.Context, desc ocispec.Descriptor) bool {
	if desc.Digest == "" {
		return false
	}
	store := s.client.ContentStore()
	err := images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := store.Info(ctx, desc.Digest); err != nil {
			return nil, err
		}
		return images.Children(ctx, store, desc)
	}), desc)
	return err == nil
}

// reporting tells of every blob as its transfer begins and ends.
func reporting(name string, report func(Progress)) func(images.Handler) images.Handler {
	return func(h images.Handler) images.Handler {
		return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			short := desc.Digest.Encoded()[:12]
			report(Progress{Image: name, Status: "pushing " + short, Total: desc.Size})
			return h.Handle(ctx, desc)
		})
	}
}
