package cell

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"shoal/test/harness"
)

// countedRegistry is a registry on the machine, which all peers reach, that
// counts what it gives of each blob.
type countedRegistry struct {
	host string
	base http.Handler

	mu   sync.Mutex
	sent map[string]int64 // by digest; guarded by mu
}

func (r *countedRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet {
		w = countedWriter{w, r, path.Base(req.URL.Path)}
	}
	r.base.ServeHTTP(w, req)
}

type countedWriter struct {
	http.ResponseWriter
	r    *countedRegistry
	name string
}

func (c countedWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.r.mu.Lock()
	c.r.sent[c.name] += int64(n)
	c.r.mu.Unlock()
	return n, err
}

// startRegistry starts one that speaks http, and says so in a file on every
// host, which running daemons read.
func startRegistry(t *testing.T) *countedRegistry {
	t.Helper()
	found, err := cell.Peers(t.Context())
	ok(t, err)
	at := found[0].Address.As4()
	at[3] = 254 // the machine's own place in a lab's subnet
	listener, err := net.Listen("tcp", net.JoinHostPort(net.IP(at[:]).String(), "0"))
	ok(t, err)
	r := &countedRegistry{host: listener.Addr().String(), sent: map[string]int64{}, base: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)
	for _, p := range found {
		dir := filepath.Join(cell.Dir, fmt.Sprint(p.Number), "lib", "shoal", "certs.d", strings.Replace(r.host, ":", "_", 1)+"_")
		ok(t, os.MkdirAll(dir, 0o755))
		ok(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(fmt.Sprintf("server = %q\n", server.URL)), 0o600))
	}
	return r
}

// once fails unless every layer of the image left the registry exactly once.
func (r *countedRegistry) once(t *testing.T, image v1.Image) {
	t.Helper()
	layers, err := image.Layers()
	ok(t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, layer := range layers {
		digest, err := layer.Digest()
		ok(t, err)
		size, err := layer.Size()
		ok(t, err)
		if sent := r.sent[digest.String()]; sent != size {
			t.Errorf("the registry gave %d bytes of a layer of %d", sent, size)
		}
	}
}

// pull has peers pull an image at the same time and returns how long it took.
func pull(t *testing.T, name string, at ...*peer) time.Duration {
	t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for _, p := range at {
		wg.Go(func() {
			if _, err := cell.Output(within(t), p.number, "shoal", "image", "pull", name, "--node", p.name); err != nil {
				t.Errorf("pull on %s: %v", p.name, err)
			}
		})
	}
	wg.Wait()
	return time.Since(began).Round(time.Millisecond)
}

// TestImagesComeFromPeers: an image of 200 MB that one host has reaches two
// others without a byte of its layers from the registry; and hosts that pull an
// image at the same time fetch each layer once together.
func TestImagesComeFromPeers(t *testing.T) {
	whole(t)
	r := startRegistry(t)
	const layers, layerBytes = 4, 50_000_000
	big, err := random.Image(layerBytes, layers)
	ok(t, err)
	ok(t, harness.PushImage(t.Context(), "http://"+r.host+"/v2/big", "v1", big))
	name := r.host + "/big:v1"
	t.Logf("200 MB from the registry to one host: %s", pull(t, name, peers[1]))
	r.once(t, big)
	t.Logf("200 MB from there to two others at once: %s", pull(t, name, peers[2], peers[3]))
	r.once(t, big)

	small, err := random.Image(5_000_000, 3)
	ok(t, err)
	ok(t, harness.PushImage(t.Context(), "http://"+r.host+"/v2/small", "v1", small))
	t.Logf("15 MB to five hosts at once: %s", pull(t, r.host+"/small:v1", all()...))
	r.once(t, small)

	for _, p := range all(1, 2, 3) {
		_, err := cell.Output(within(t), p.number, "shoal", "image", "rm", name, "--node", p.name)
		ok(t, err)
	}
}
