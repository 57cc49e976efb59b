package image

import (
	"context"
	"fmt"
	"io"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
)

// Progress is one step of a pull or an import, in the order they happen. The
// last one has Done set.
type Progress struct {
	Image  string `json:"image,omitempty"`
	Status string `json:"status"`
	Bytes  int64  `json:"bytes,omitempty"`
	Total  int64  `json:"total,omitempty"`
	Done   bool   `json:"done,omitempty"`
	Error  string `json:"error,omitempty"`
}

// progressEvery is how many bytes pass between two reports of an import.
const progressEvery = 4 << 20

// Import reads a docker-archive or OCI layout tar and unpacks its images.
// It returns the names they are known by.
func (s *Store) Import(ctx context.Context, tar io.Reader, report func(Progress)) ([]string, error) {
	report(Progress{Status: "reading"})
	reader := &countingReader{from: tar, report: report}
	imported, err := s.client.Import(ctx, reader,
		containerd.WithImageLabels(map[string]string{labelSource: sourceImport}),
		containerd.WithSkipMissing(),
		containerd.WithImportPlatform(s.platform()))
	if err != nil {
		return nil, fmt.Errorf("import image archive (docker-archive or OCI layout expected): %w", err)
	}
	if len(imported) == 0 {
		return nil, fmt.Errorf("import image archive: it names no image; save it with a name, as in `docker save hello:latest`")
	}
	names := make([]string, 0, len(imported))
	for _, record := range imported {
		record, err := s.rename(ctx, record)
		if err != nil {
			return nil, err
		}
		report(Progress{Image: record.Name, Status: "unpacking"})
		if _, err := s.load(ctx, record); err != nil {
			return nil, err
		}
		report(Progress{Image: record.Name, Status: "loaded"})
		names = append(names, record.Name)
	}
	return names, nil
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

type countingReader struct {
	from   io.Reader
	report func(Progress)
	bytes  int64
	told   int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.bytes += int64(n)
	if c.bytes-c.told >= progressEvery {
		c.told = c.bytes
		c.report(Progress{Status: "reading", Bytes: c.bytes})
	}
	return n, err
}
