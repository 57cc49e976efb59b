package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxBlobs bounds blobs fetched at once, of all images.
	maxBlobs = 6
	// registryTries is how often a registry is asked for a blob when nothing
	// comes of it; a try that brought something does not count.
	registryTries = 3
	retryDelay    = time.Second
	// stallTimeout ends a transfer that brings nothing.
	stallTimeout = time.Minute
	// copyBuffer is as large as containerd's own: each write is a call.
	copyBuffer = 1 << 20
	// spaceEvery is how many bytes pass between two looks at the disk.
	spaceEvery = 32 << 20
)

// errStalled says that a transfer was given up because nothing moved.
var errStalled = errors.New("the transfer stalled")

// fetch brings the blobs of one image: each from a peer that has it, or else
// from the registry. containerd checks every digest; what a source gave wrong
// is thrown away and its name told.
type fetch struct {
	s        *Store
	remote   remotes.Fetcher // nil: only peers have this image
	registry string
	progress *progress
	from     string // a peer that is known to have it; empty: none is

	mu   sync.Mutex
	bad  map[string]bool // peers that are not asked again; guarded by mu
	refs []string        // of ingests that were begun; guarded by mu
}

// handle is called for every blob of the image before containerd's own
// handlers, which then find it there.
func (f *fetch) handle(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	select {
	case f.s.blobs <- struct{}{}:
		defer func() { <-f.s.blobs }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := f.blob(ctx, desc); err != nil {
		return nil, err
	}
	return nil, f.check(ctx, desc)
}

// check looks into what says something of the rest of the image.
func (f *fetch) check(ctx context.Context, desc ocispec.Descriptor) error {
	switch {
	case images.IsIndexType(desc.MediaType):
		var index ocispec.Index
		if err := f.read(ctx, desc, &index); err != nil {
			return err
		}
		return checkIndex(index)
	case images.IsManifestType(desc.MediaType):
		var manifest ocispec.Manifest
		if err := f.read(ctx, desc, &manifest); err != nil {
			return err
		}
		return f.room(ctx, manifest)
	case images.IsConfigType(desc.MediaType):
		var config ocispec.Image
		if err := f.read(ctx, desc, &config); err != nil {
			return err
		}
		return checkPlatform(config.Platform)
	}
	return nil
}

func (f *fetch) read(ctx context.Context, desc ocispec.Descriptor, into any) error {
	data, err := content.ReadBlob(ctx, f.s.client.ContentStore(), desc)
	if err != nil {
		return fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decode %s of type %s: %w", desc.Digest, desc.MediaType, err)
	}
	return nil
}

// room refuses an image that the disk cannot take, and counts what is to come.
func (f *fetch) room(ctx context.Context, m ocispec.Manifest) error {
	var missing int64
	for _, layer := range m.Layers {
		if _, err := f.s.client.ContentStore().Info(ctx, layer.Digest); err != nil {
			missing += layer.Size
		}
	}
	f.progress.total.Add(missing)
	return f.s.makeRoom(ctx, missing)
}

// blob brings one blob.
func (f *fetch) blob(ctx context.Context, desc ocispec.Descriptor) error {
	if _, err := f.s.client.ContentStore().Info(ctx, desc.Digest); err == nil {
		return nil // containerd's own handler puts it under the lease
	}
	err := f.fromPeers(ctx, desc)
	if err == nil || !errors.Is(err, errAskRegistry) {
		return err
	}
	if f.remote == nil {
		return fmt.Errorf("%w: no peer has %s of this loaded image any more; load it again", ErrNotPresent, desc.Digest)
	}
	return f.fromRegistry(ctx, desc)
}

func (f *fetch) fromRegistry(ctx context.Context, desc ocispec.Descriptor) error {
	source := source{name: "registry " + f.registry, open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		body, err := f.remote.Fetch(ctx, desc)
		if err != nil || offset == 0 {
			return body, err
		}
		seeker, ok := body.(io.Seeker)
		if !ok {
			return body, skip(body, offset)
		}
		_, err = seeker.Seek(offset, io.SeekStart)
		return body, err
	}}
	for try := 1; ; try++ {
		moved, err := f.copy(ctx, source, desc)
		var wrong *wrongError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isNoSpace(err), errdefs.IsNotFound(err), mayBeRights(err):
			return err
		case errors.As(err, &wrong) && wrong.whole:
			return err
		case moved > 0:
			try = 0
		case try >= registryTries:
			return err
		}
		if err := pause(ctx, retryDelay); err != nil {
			return err
		}
	}
}

func skip(body io.ReadCloser, offset int64) error {
	_, err := io.CopyN(io.Discard, body, offset)
	return err
}

// source is where a blob can be read from an offset on.
type source struct {
	name string
	peer bool
	open func(ctx context.Context, offset int64) (io.ReadCloser, error)
}

// wrongError says that a source gave what has another digest. whole is false
// where another source gave the beginning.
type wrongError struct {
	source string
	want   digest.Digest
	whole  bool
	err    error
}

func (e *wrongError) Error() string {
	return fmt.Sprintf("what %s gave as %s is not that: %v", e.source, e.want, e.err)
}

func (e *wrongError) Unwrap() error { return e.err }

// copy appends to what earlier attempts brought of the blob, and commits it. It
// returns how many bytes were new.
func (f *fetch) copy(ctx context.Context, from source, desc ocispec.Descriptor) (moved int64, err error) {
	ref := remotes.MakeRefKey(ctx, desc)
	w, err := content.OpenWriter(ctx, f.s.client.ContentStore(), content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	defer w.Close()
	f.begin(ref)
	status, err := w.Status()
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	if status.Offset > desc.Size {
		if err := w.Truncate(0); err != nil {
			return 0, fmt.Errorf("write %s: %w", desc.Digest, err)
		}
		status.Offset = 0
	}
	if moved, err = f.transfer(ctx, from, w, desc, status.Offset); err != nil {
		return moved, err
	}
	err = w.Commit(ctx, desc.Size, desc.Digest)
	switch {
	case err == nil, errdefs.IsAlreadyExists(err):
		return moved, nil
	case errdefs.IsFailedPrecondition(err):
		_ = w.Close()
		f.progress.bytes.Add(-moved)
		_ = f.s.client.ContentStore().Abort(context.WithoutCancel(ctx), ref)
		return 0, &wrongError{source: from.name, want: desc.Digest, whole: status.Offset == 0, err: err}
	}
	return moved, fmt.Errorf("keep %s: %w", desc.Digest, err)
}

// transfer moves the rest of a blob, and ends when nothing comes for too long.
func (f *fetch) transfer(ctx context.Context, from source, w io.Writer, desc ocispec.Descriptor, offset int64) (moved int64, err error) {
	if offset == desc.Size {
		return 0, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := f.s.o.StallTimeout
	timer := time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("%w: no byte of %s from %s for %s", errStalled, desc.Digest, from.name, stall))
	})
	defer timer.Stop()
	named := func(err error) error {
		if cause := context.Cause(ctx); cause != nil && errors.Is(cause, errStalled) {
			return cause
		}
		return fmt.Errorf("fetch %s from %s: %w", desc.Digest, from.name, err)
	}
	body, err := from.open(ctx, offset)
	if err != nil {
		return 0, named(err)
	}
	defer body.Close()
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	unchecked := int64(0)
	for offset+moved < desc.Size {
		chunk := (*buffer)[:min(int64(len(*buffer)), desc.Size-offset-moved)]
		n, readErr := readSome(body, chunk, func() { timer.Reset(stall) })
		if n > 0 {
			timer.Stop() // the disk may take its time
			if _, err := w.Write(chunk[:n]); err != nil {
				return moved, fmt.Errorf("write %s: %w", desc.Digest, err)
			}
			timer.Reset(stall)
			moved += int64(n)
			f.count(from, int64(n))
			if unchecked += int64(n); unchecked >= spaceEvery {
				unchecked = 0
				if err := f.s.checkReserve(); err != nil {
					return moved, err
				}
			}
		}
		if readErr != nil && offset+moved < desc.Size {
			if errors.Is(readErr, io.EOF) {
				readErr = io.ErrUnexpectedEOF
			}
			return moved, named(readErr)
		}
	}
	return moved, nil
}

var buffers = sync.Pool{New: func() any {
	b := make([]byte, copyBuffer)
	return &b
}}

// readSome fills p as far as it can, and calls alive after every part.
func readSome(r io.Reader, p []byte, alive func()) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
		if m > 0 {
			alive()
		}
	}
	return n, err
}

func (f *fetch) count(from source, n int64) {
	f.progress.bytes.Add(n)
	if from.peer {
		f.progress.peerBytes.Add(n)
	}
}

func (f *fetch) begin(ref string) {
	f.mu.Lock()
	f.refs = append(f.refs, ref)
	f.mu.Unlock()
}

func (f *fetch) begun() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refs
}

func (f *fetch) isBad(peer string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bad[peer]
}

func (f *fetch) setBad(peer string) {
	f.mu.Lock()
	if f.bad == nil {
		f.bad = map[string]bool{}
	}
	f.bad[peer] = true
	f.mu.Unlock()
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
