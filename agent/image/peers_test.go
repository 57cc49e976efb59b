package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"

	"shoal/agent/internal/testbed"
)

// cell is hosts with a store each, whose agents are reached by http.
type cell struct {
	mu     sync.Mutex
	urls   map[string]string // guarded by mu
	down   map[string]bool   // guarded by mu
	stores map[string]*Store
	names  []string
	logs   *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// peersOf is what one host of a cell sees.
type peersOf struct {
	c    *cell
	self string
}

func (p peersOf) Alive() []string {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	var out []string
	for _, n := range p.c.names {
		if n != p.self && !p.c.down[n] {
			out = append(out, n)
		}
	}
	return out
}

func (p peersOf) Agent(name string) string {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.c.urls[name]
}

func (p peersOf) Do(r *http.Request) (*http.Response, error) { return http.DefaultClient.Do(r) }

func newCell(t *testing.T, o Config, names ...string) (*cell, context.Context) {
	t.Helper()
	c := &cell{urls: map[string]string{}, down: map[string]bool{}, stores: map[string]*Store{}, names: names, logs: &syncBuffer{}}
	ctx := namespaces.WithNamespace(t.Context(), testbed.Namespace)
	for _, name := range names {
		ctrd := testbed.StartContainerd(t)
		o := o
		o.Self, o.Peers = name, peersOf{c, name}
		o.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(c.logs, os.Stderr), nil))
		s := NewInCell(ctrd.Client, "overlayfs", o)
		share := s.ShareHandler()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			share.ServeHTTP(w, r.WithContext(namespaces.WithNamespace(r.Context(), testbed.Namespace)))
		}))
		t.Cleanup(server.Close)
		c.stores[name], c.urls[name] = s, server.URL
	}
	return c, ctx
}

// TestPullOnAll: hosts that pull one image at the same time fetch each of its
// blobs from the registry once, all hosts together.
func TestPullOnAll(t *testing.T) {
	c, ctx := newCell(t, Config{}, "a", "b", "c")
	reg := testbed.StartRegistry(t, false)
	pushed := reg.Push(t, "x/y:v1", "amd64", testbed.Layer(t), testbed.LayerOf(t, "big", noise(8<<20, 7)))
	name := reg.Host + "/x/y:v1"
	var wg sync.WaitGroup
	var fromPeers [3]int64
	for i, host := range c.names {
		wg.Go(func() {
			img, err := c.stores[host].Pull(ctx, name, nil, func(p Progress) { fromPeers[i] = p.PeerBytes })
			if err != nil || img.ID != reg.Host+"/x/y@"+pushed.Manifest {
				t.Errorf("%s: %v", host, err)
			}
		})
	}
	wg.Wait()
	for _, blob := range append(pushed.Layers, pushed.Manifest) {
		info, err := c.stores["a"].client.ContentStore().Info(ctx, digest.Digest(blob))
		if err != nil {
			t.Fatal(err)
		}
		if sent := reg.Sent(blob); sent != info.Size {
			t.Errorf("the registry sent %d bytes of %s, which has %d", sent, blob, info.Size)
		}
	}
	if fromPeers[0]+fromPeers[1]+fromPeers[2] < 2*8<<20 {
		t.Errorf("bytes from peers: %v", fromPeers)
	}
	if heads := reg.Heads("v1"); heads != 3 {
		t.Errorf("the name was resolved %d times; each host has to prove that it may", heads)
	}
}

// TestPullAfterwards: a host whose tracker was restarted finds by asking who
// has what, and private images need the registry's word on every host.
func TestPullAfterwards(t *testing.T) {
	c, ctx := newCell(t, Config{}, "a", "b", "c")
	reg := testbed.StartRegistry(t, false)
	pushed := reg.Push(t, "x/y:v1", "amd64", testbed.Layer(t))
	reg.Password = "let-me-in"
	name := reg.Host + "/x/y:v1"
	creds := credentials(t, "s", name, reg.Host, "let-me-in")
	if _, err := c.stores["a"].Pull(ctx, name, creds, nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.stores {
		s.tracker = newTracker(time.Now)
	}
	before := reg.Sent(pushed.Layers[0])
	if _, err := c.stores["b"].Pull(ctx, name, nil, nil); err == nil {
		t.Error("a host without credentials gets a private image from a peer")
	}
	if img, err := c.stores["b"].Pull(ctx, name, creds, nil); err != nil || img.Open() {
		t.Errorf("with credentials: %v", err)
	}
	if reg.Sent(pushed.Layers[0]) != before {
		t.Error("the layer came from the registry though a peer has it")
	}
	c.mu.Lock()
	c.down["a"], c.down["b"] = true, true
	c.mu.Unlock()
	if _, err := c.stores["c"].Pull(ctx, name, creds, nil); err != nil {
		t.Errorf("with all peers down: %v", err)
	}
}

// TestBadPeer: what a peer gives wrong is refused, the peer is named in the log
// and skipped, and the image comes from another source.
func TestBadPeer(t *testing.T) {
	c, ctx := newCell(t, Config{StallTimeout: 3 * time.Second}, "a", "b")
	reg := testbed.StartRegistry(t, false)
	layer := testbed.Layer(t)
	pushed := reg.Push(t, "x/y:v1", "amd64", layer)
	name := reg.Host + "/x/y:v1"
	if _, err := c.stores["a"].Pull(ctx, name, nil, nil); err != nil {
		t.Fatal(err)
	}
	for kind, serve := range map[string]http.HandlerFunc{
		"wrong bytes": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, len(layer))) },
		"too few":     func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer[:100]) },
		"nothing": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5000000")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(kind, func(t *testing.T) {
			good := c.urls["a"]
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, pushed.Layers[0]) {
					serve(w, r)
					return
				}
				c.stores["a"].ShareHandler().ServeHTTP(w, r.WithContext(namespaces.WithNamespace(r.Context(), testbed.Namespace)))
			}))
			defer bad.Close()
			c.mu.Lock()
			c.urls["a"] = bad.URL
			c.mu.Unlock()
			before := reg.Sent(pushed.Layers[0])
			if _, err := c.stores["b"].Pull(ctx, name, nil, nil); err != nil {
				t.Error(err)
			}
			if reg.Sent(pushed.Layers[0]) == before {
				t.Error("the registry was not asked")
			}
			if !strings.Contains(c.logs.String(), "could not give a part of an image") || !strings.Contains(c.logs.String(), "peer=a digest="+pushed.Layers[0]) {
				t.Error("the log does not name the peer")
			}
			c.mu.Lock()
			c.urls["a"] = good
			c.mu.Unlock()
			if err := c.stores["b"].Remove(ctx, name); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLoaded: an image that was loaded on one host reaches the others, as each
// of them needs it.
func TestLoaded(t *testing.T) {
	c, ctx := newCell(t, Config{}, "a", "b", "c")
	if _, err := c.stores["b"].PullLoaded(ctx, "hello", "", nil); !errors.Is(err, ErrNotPresent) {
		t.Errorf("nobody has it: %v", err)
	}
	if _, err := c.stores["a"].Import(ctx, bytes.NewReader(testbed.Archive(t, "hello")), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	img, err := c.stores["b"].PullLoaded(ctx, "hello", "a", nil)
	if err != nil || !img.Open() {
		t.Fatal(err)
	}
	own, err := c.stores["a"].Get(ctx, "hello")
	if err != nil || own.ID != img.ID {
		t.Errorf("on the two hosts: %v and %v, %v", own, img, err)
	}
	// A newer one of that name goes before what others still have.
	newer := testbed.DockerArchive(t, "hello", testbed.LayerOf(t, "new", []byte("new")))
	if _, err := c.stores["a"].Import(ctx, bytes.NewReader(newer), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	want, err := c.stores["a"].Get(ctx, "hello")
	if err != nil {
		t.Fatal(err)
	}
	if img, err := c.stores["c"].PullLoaded(ctx, "hello", "", nil); err != nil || img.ID != want.ID {
		t.Errorf("the newest: %+v, %v; want %s", img, err, want.ID)
	}
	list, err := c.stores["c"].List(ctx)
	if err != nil || len(list) != 1 || !list[0].Loaded || !list[0].Pinned {
		t.Errorf("what came is loaded and pinned: %+v, %v", list, err)
	}
}

// TestShareRate: what is given is bounded, and so is to how many at once.
func TestShareRate(t *testing.T) {
	const rate = 4 << 20
	c, ctx := newCell(t, Config{ShareRate: rate}, "a", "b")
	if _, err := c.stores["a"].Import(ctx, bytes.NewReader(testbed.DockerArchive(t, "big", testbed.LayerOf(t, "big", noise(8<<20, 3)))), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := c.stores["b"].PullLoaded(ctx, "big", "a", nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 8<<20/rate*time.Second*3/4 {
		t.Errorf("8 MiB at %d bytes/s took %s", rate, took)
	}
	for range maxUploads {
		c.stores["a"].uploads <- struct{}{}
	}
	img, err := c.stores["a"].Get(ctx, "big")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.stores["b"].open(ctx, "a", img.Digest, 0); !errors.Is(err, errBusy) {
		t.Errorf("a host that gives to enough others: %v", err)
	}
}

func TestTracker(t *testing.T) {
	now := time.Unix(1000, 0)
	tr := newTracker(func() time.Time { return now })
	d := digest.FromString("x")
	look := func(host string) string {
		answer, wait := tr.look(d, host, "")
		switch {
		case wait != nil:
			return "wait"
		case answer.Fetch:
			return "fetch"
		}
		slices.Sort(answer.Holders)
		return strings.Join(answer.Holders, " ")
	}
	for i, step := range []struct {
		host  string
		state blobState // said before asking, if any
		by    string
		after time.Duration
		want  string
	}{
		{"a", "", "", 0, "fetch"},
		{"b", "", "", 0, "wait"},
		{"a", "", "", 0, "fetch"}, // it begins again
		{"b", blobFetching, "a", 10 * time.Second, "wait"},
		{"b", "", "", 4 * time.Second, "wait"},
		{"b", "", "", 6 * time.Second, "fetch"}, // a has not said a word
		{"c", blobGone, "b", 0, "fetch"},        // b could not
		{"d", blobHere, "c", 0, "c"},
		{"c", "", "", 0, "fetch"}, // it lost it
		{"d", blobHere, "d", 0, "c"},
		{"e", "", "", 0, "c d"},
		{"e", blobGone, "c", 0, "d"},
	} {
		if step.state != "" {
			tr.note(d, step.by, step.state)
		}
		now = now.Add(step.after)
		if got := look(step.host); got != step.want {
			t.Errorf("step %d: %s is told %q, want %q", i, step.host, got, step.want)
		}
	}
	for i := range trackedMax + 10 {
		tr.note(digest.FromString(strings.Repeat("y", i%50)+string(rune(i))), "a", blobHere)
	}
	if len(tr.blobs) > trackedMax {
		t.Errorf("%d blobs are remembered", len(tr.blobs))
	}
}

func TestRangeStart(t *testing.T) {
	for header, want := range map[string]int64{"": 0, "bytes=5-": 5, "bytes=10-": -1, "bytes=-5": -1, "bytes=1-2": -1, "bytes=x-": -1, "lines=1-": -1} {
		got, ok := rangeStart(header, 10)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, want %d", header, got, want)
		}
	}
}
