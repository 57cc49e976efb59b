package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
)

// progressEvery is how many bytes pass between two reports of an import.
const progressEvery = 4 << 20

// Import reads a docker-archive or OCI layout tar, also compressed with gzip or
// zstd, and unpacks its images. It returns the names they are known by. They are
// pinned: no registry could give them back.
func (s *Store) Import(ctx context.Context, archive io.Reader, report func(Progress)) ([]string, error) {
	report(Progress{Status: "reading"})
	l, err := s.lease(ctx, "an archive")
	if err != nil {
		return nil, err
	}
	defer l.drop()
	tar, err := compression.DecompressStream(&countingReader{from: archive, report: report, room: s.checkReserve})
	if err != nil {
		return nil, fmt.Errorf("import image archive: %w", err)
	}
	defer tar.Close()
	guarded, stop := s.guard(l.ctx)
	defer stop()
	imported, err := s.client.Import(guarded, tar,
		containerd.WithImageLabels(map[string]string{labelSource: sourceImport, labelPinned: pinned}),
		containerd.WithSkipMissing(),
		containerd.WithAllPlatforms(true)) // peers may be of another one
	if cause := context.Cause(guarded); err != nil && isNoSpace(cause) {
		err = cause
	}
	if isNoSpace(err) {
		return nil, fmt.Errorf("import image archive: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("import image archive (docker-archive or OCI layout expected, plain or compressed with gzip or zstd): %w", err)
	}
	if len(imported) == 0 {
		return nil, fmt.Errorf("import image archive: it names no image; save it with a name, as in `docker save hello:latest`")
	}
	names := make([]string, 0, len(imported))
	for _, record := range imported {
		name, err := s.adopt(guarded, record, report)
		if cause := context.Cause(guarded); err != nil && isNoSpace(cause) {
			err = cause
		}
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// adopt makes an imported image usable. One that is not for this host goes
// again.
func (s *Store) adopt(ctx context.Context, record images.Image, report func(Progress)) (string, error) {
	record, err := s.rename(ctx, record)
	if err != nil {
		return "", err
	}
	report(Progress{Image: record.Name, Status: "unpacking"})
	if _, err := s.load(ctx, record); err != nil {
		return "", errors.Join(err, s.dropUnusable(context.WithoutCancel(ctx), record.Name))
	}
	report(Progress{Image: record.Name, Status: "loaded", Digest: record.Target.Digest.String()})
	return record.Name, nil
}

// rename gives an imported image its full name where the archive had a
// short one.
func (s *Store) rename(ctx context.Context, record images.Image) (images.Image, error) {
	name, err := Normalize(record.Name)
	if err != nil || name == record.Name {
		return record, err
	}
	short := record.Name
	record.Name = name
	store := s.client.ImageService()
	renamed, err := store.Create(ctx, record)
	if errdefs.IsAlreadyExists(err) {
		renamed, err = store.Update(ctx, record, "target", "labels")
	}
	if err != nil {
		return record, fmt.Errorf("name image %s: %w", name, err)
	}
	if err := store.Delete(ctx, short); err != nil && !errdefs.IsNotFound(err) {
		return record, fmt.Errorf("remove short image name %s: %w", short, err)
	}
	return renamed, nil
}

// countingReader reports how much was read, and stops before the disk is full.
type countingReader struct {
	from   io.Reader
	report func(Progress)
	room   func() error
	bytes  int64
	told   int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.bytes += int64(n)
	if c.bytes-c.told >= progressEvery {
		c.told = c.bytes
		c.report(Progress{Status: "reading", Bytes: c.bytes})
		if full := c.room(); full != nil {
			return n, full
		}
	}
	return n, err
}
