package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/klauspost/compress/zstd"

	"shoal/agent/internal/testbed"
)

// onDisk is a store whose containerd has a disk of its own.
func onDisk(t *testing.T, size string, o Config) (*Store, context.Context) {
	t.Helper()
	ctrd := testbed.StartContainerdOn(t, size)
	return NewInCell(ctrd.Client, "overlayfs", o), namespaces.WithNamespace(t.Context(), testbed.Namespace)
}

// TestFullDisk: what the disk cannot take is not begun; what fills it on the
// way is given up and leaves nothing.
func TestFullDisk(t *testing.T) {
	s, ctx := onDisk(t, "192M", Config{})
	reg := testbed.StartRegistry(t, false)
	big := testbed.LayerOf(t, "big", noise(60<<20, 5))
	image := reg.Push(t, "x/big:v1", "amd64", big)
	_, err := s.Pull(ctx, reg.Host+"/x/big:v1", nil, nil)
	if err == nil || !isNoSpace(err) || !strings.Contains(err.Error(), "shoal image rm") {
		t.Errorf("an image that does not fit: %v", err)
	}
	if sent := reg.Sent(image.Layers[0]); sent != 0 {
		t.Errorf("%d bytes of it were fetched", sent)
	}

	// Its size passes the check at the beginning, and what it unpacks to does
	// not fit.
	reg.Push(t, "x/zeros:v1", "amd64", compressed(t, testbed.LayerOf(t, "zeros", make([]byte, 250<<20))))
	_, before, _ := s.FSStats(ctx)
	if _, err := s.Pull(ctx, reg.Host+"/x/zeros:v1", nil, nil); err == nil {
		t.Error("an image that fills the disk is pulled")
	} else if !isNoSpace(err) {
		t.Errorf("an image that fills the disk: %v", err)
	}
	waitFor(t, "the disk to be as free as before", func() bool {
		_, after, ok := s.FSStats(ctx)
		return ok && after > before-2<<20
	})
	if list, err := s.client.LeasesService().List(ctx); err != nil || len(list) > 0 {
		t.Errorf("leases are left: %v, %v", list, err)
	}
	small := reg.Push(t, "x/small:v1", "amd64", testbed.Layer(t))
	if _, err := s.Pull(ctx, reg.Host+"/x/small:v1", nil, nil); err != nil || small.Manifest == "" {
		t.Errorf("an image that fits, afterwards: %v", err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("waited in vain for %s", what)
			return
		}
	}
}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// TestCollect: what nothing uses goes, what was used longest ago first; what is
// pinned, of a pod or new stays.
func TestCollect(t *testing.T) {
	s, ctx := onDisk(t, "64M", Config{})
	reg := testbed.StartRegistry(t, false)
	names := map[string]string{}
	for i, name := range []string{"old", "recent", "new", "pod"} {
		reg.Push(t, "x/"+name+":v1", "amd64", testbed.LayerOf(t, name, noise(1<<20, uint64(i))))
		names[name] = reg.Host + "/x/" + name + ":v1"
		if _, err := s.Pull(ctx, names[name], nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Import(ctx, bytes.NewReader(testbed.Archive(t, "loaded")), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	s.SetInUse(func() []string { return []string{names["pod"]} })
	long := time.Now().Add(-time.Hour)
	age := func(name string, used time.Time) {
		img, err := s.Get(ctx, names[name])
		if err != nil {
			t.Fatal(err)
		}
		s.use.seen(img.Digest, long)
		s.use.mu.Lock()
		s.use.first[img.Digest], s.use.used[img.Digest] = long, used
		s.use.mu.Unlock()
	}
	age("old", long)
	age("recent", long.Add(time.Minute))
	age("pod", long)
	if freed, err := s.Collect(ctx, 1); err != nil || freed < 1<<20 {
		t.Errorf("freed %d bytes, %v", freed, err)
	}
	left := func() string {
		list, err := s.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, i := range list {
			out = append(out, strings.TrimSuffix(filepath.Base(i.Name), ":v1"))
		}
		return strings.Join(out, " ")
	}
	if got := left(); got != "new pod recent loaded:latest" && got != "loaded:latest new pod recent" {
		t.Errorf("left: %s", got)
	}
	if _, err := s.Collect(ctx, 1<<40); err != nil {
		t.Error(err)
	}
	if got := left(); got != "new pod loaded:latest" && got != "loaded:latest new pod" {
		t.Errorf("left of all: %s", got)
	}

	// Full: what is left may not go, and the node is told.
	root := s.Root(ctx)
	capacity, available, _ := s.FSStats(ctx)
	if err := os.WriteFile(filepath.Join(root, "filler"), make([]byte, available-capacity/10), 0o600); err != nil {
		t.Fatal(err)
	}
	var told []string
	s.collectIfFull(ctx, func(reason, message string) { told = append(told, reason+": "+message) })
	if len(told) != 1 || !strings.HasPrefix(told[0], "FreeDiskSpaceFailed: Insufficient free disk space on the node's image filesystem (") {
		t.Errorf("told: %q", told)
	}
}

// TestDirectory: archives are imported once, again when they change, and what
// is none is told.
func TestDirectory(t *testing.T) {
	s, ctx := newStore(t, Config{})
	ctx, cancel := context.WithCancel(ctx)
	dir := t.TempDir()
	var mu sync.Mutex
	var told []string
	d := &Directory{
		Store: s, Path: filepath.Join(dir, "images"), State: filepath.Join(dir, "state"), Log: slog.New(slog.DiscardHandler),
		Tell: func(reason, message string) {
			mu.Lock()
			told = append(told, reason+": "+message)
			mu.Unlock()
		},
	}
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(d.Path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(d.Path, name)); err != nil {
			t.Fatal(err)
		}
	}
	put("before.tar.zst", compressed(t, testbed.Archive(t, "before")))
	run := func(ctx context.Context) (stop func()) {
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	stop := run(ctx)
	here := func(name string) func() bool {
		return func() bool { _, err := s.Get(ctx, name); return err == nil }
	}
	waitFor(t, "what was there before", here("before"))
	put("later.tar", testbed.Archive(t, "later"))
	put("broken.tar", []byte("no archive"))
	put("ignored.txt", []byte("no archive"))
	waitFor(t, "what came later", here("later"))
	waitFor(t, "word of the broken one", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(told) == 1 && strings.HasPrefix(told[0], "ImageImportFailed: Failed to import images from "+filepath.Join(d.Path, "broken.tar"))
	})
	if list, err := s.List(ctx); err != nil || len(list) != 2 || !list[0].Pinned {
		t.Errorf("imported: %+v, %v", list, err)
	}
	stop()

	// The next daemon does not import them again.
	ctx, cancel = context.WithCancel(namespaces.WithNamespace(t.Context(), testbed.Namespace))
	defer cancel()
	if err := s.Remove(ctx, "later"); err != nil {
		t.Fatal(err)
	}
	stop = run(ctx)
	put("broken.tar", testbed.Archive(t, "repaired"))
	waitFor(t, "the repaired one", here("repaired"))
	if here("later")() {
		t.Error("a file is imported again")
	}
	stop()
}

// TestInterruptedImport: a load that breaks off holds nothing.
func TestInterruptedImport(t *testing.T) {
	s, ctx := newStore(t, Config{})
	archive := testbed.DockerArchive(t, "half", testbed.LayerOf(t, "f", noise(8<<20, 9)))
	ctx, cancel := context.WithCancel(ctx)
	_, err := s.Import(ctx, io.MultiReader(bytes.NewReader(archive[:6<<20]), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, fmt.Errorf("the client went away")
	})), func(Progress) {})
	if err == nil {
		t.Error("half an archive is imported")
	}
	ctx = context.WithoutCancel(ctx)
	if list, err := s.client.LeasesService().List(ctx); err != nil || len(list) > 0 {
		t.Errorf("leases are left: %v, %v", list, err)
	}
	if status, err := s.client.ContentStore().ListStatuses(ctx); err != nil || len(status) > 0 {
		t.Errorf("ingests are left: %v, %v", status, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestPush sends a loaded image to a registry that asks for a password, and
// gets it back.
func TestPush(t *testing.T) {
	s, ctx := newStore(t, Config{})
	reg := testbed.StartRegistry(t, false)
	reg.Password = "let-me-in"
	if _, err := s.Import(ctx, bytes.NewReader(testbed.Archive(t, "hello")), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	to := reg.Host + "/team/hello:v2"
	none := func(Progress) {}
	if err := s.Push(ctx, "hello", to, nil, none); err == nil {
		t.Error("a push without credentials succeeds")
	}
	right := []Credentials{{Username: "u", Password: "let-me-in"}}
	if err := s.Push(ctx, "hello", to, right, none); err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(ctx, to, right, nil)
	if err != nil {
		t.Fatal(err)
	}
	own, err := s.Get(ctx, "hello")
	if err != nil || own.ChainID != img.ChainID {
		t.Errorf("what came back: %+v, %v", img, err)
	}
}
