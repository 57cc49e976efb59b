package testbed

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
)

// Registry is an image registry on loopback. Set its fields before it is used.
type Registry struct {
	Host string // such as 127.0.0.1:41234
	// Password guards it; every user has it.
	Password string
	// Token: the password is asked for by a token server, as Docker's is.
	Token bool
	// Serve, if set, may answer a GET of a blob itself.
	Serve func(w http.ResponseWriter, r *http.Request, digest string) bool

	server *httptest.Server
	base   http.Handler

	mu    sync.Mutex
	sent  map[string]int64 // bytes, by the end of the path; guarded by mu
	heads map[string]int   // of manifests; guarded by mu
	sizes map[string]int   // of blobs; guarded by mu
}

// StartRegistry starts one that speaks http; secure makes it speak https under
// an authority of its own.
func StartRegistry(t testing.TB, secure bool) *Registry {
	t.Helper()
	r := &Registry{sent: map[string]int64{}, heads: map[string]int{}, sizes: map[string]int{}, base: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	t.Cleanup(r.server.Close)
	u, _ := url.Parse(r.server.URL)
	r.Host = u.Host
	return r
}

// URL is where it is.
func (r *Registry) URL() string { return r.server.URL }

// CA is the certificate of a secure registry.
func (r *Registry) CA() []byte { return r.server.Certificate().Raw }

// Sent is how many bytes of a blob or manifest were given.
func (r *Registry) Sent(digest string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent[digest]
}

// Heads is how often a manifest was asked for by name without being read.
func (r *Registry) Heads(reference string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heads[reference]
}

const testToken = "a-token"

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" {
		if !r.knows(req) {
			http.Error(w, "wrong password", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":%q}`, testToken)
		return
	}
	if !r.allowed(req) {
		challenge := `Basic realm="test"`
		if r.Token {
			challenge = fmt.Sprintf(`Bearer realm="%s/token",service="test"`, r.server.URL)
		}
		w.Header().Set("WWW-Authenticate", challenge)
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	name := path.Base(req.URL.Path)
	if req.Method == http.MethodHead && strings.Contains(req.URL.Path, "/manifests/") {
		r.mu.Lock()
		r.heads[name]++
		r.mu.Unlock()
	}
	if open, ok := strings.CutSuffix(req.Header.Get("Range"), "-"); ok {
		r.mu.Lock()
		end := r.sizes[name] - 1 // the package wants to be told
		r.mu.Unlock()
		req.Header.Set("Range", fmt.Sprintf("%s-%d", open, end))
	}
	counted := &countingWriter{ResponseWriter: w, r: r, name: name}
	if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && r.Serve != nil && r.Serve(counted, req, name) {
		return
	}
	r.base.ServeHTTP(counted, req)
}

func (r *Registry) knows(req *http.Request) bool {
	_, password, ok := req.BasicAuth()
	return ok && password == r.Password
}

func (r *Registry) allowed(req *http.Request) bool {
	switch {
	case r.Password == "":
		return true
	case r.Token:
		return req.Header.Get("Authorization") == "Bearer "+testToken
	}
	return r.knows(req)
}

type countingWriter struct {
	http.ResponseWriter
	r    *Registry
	name string
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.r.mu.Lock()
	c.r.sent[c.name] += int64(n)
	c.r.mu.Unlock()
	return n, err
}

func (c *countingWriter) Flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// Image is what was put into a registry.
type Image struct {
	Manifest string   // digest
	Layers   []string // digests
}

// Digest is the sha256 digest of data.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Media types of what PutManifest takes.
const (
	ManifestType = "application/vnd.oci.image.manifest.v1+json"
	IndexType    = "application/vnd.oci.image.index.v1+json"
)

// Push puts an image of layers, plain or compressed with zstd, for a platform's architecture into
// the registry as name:tag, such as x/y:v1.
func (r *Registry) Push(t testing.TB, name, architecture string, layers ...[]byte) Image {
	t.Helper()
	repository, tag, _ := strings.Cut(name, ":")
	var diffs []string
	var out Image
	var descs []any
	for _, l := range layers {
		kind, plain := "application/vnd.oci.image.layer.v1.tar", l
		if bytes.HasPrefix(l, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
			reader, err := zstd.NewReader(nil)
			if err != nil {
				t.Fatal(err)
			}
			if plain, err = reader.DecodeAll(l, nil); err != nil {
				t.Fatal(err)
			}
			reader.Close()
			kind += "+zstd"
		}
		diffs = append(diffs, Digest(plain))
		out.Layers = append(out.Layers, Digest(l))
		descs = append(descs, r.blob(t, repository, kind, l))
	}
	config, _ := json.Marshal(map[string]any{
		"architecture": architecture, "os": "linux", "config": map[string]any{"Cmd": []string{"/bin/sh"}, "Env": []string{"A=b", "PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	manifest, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ManifestType,
		"config": r.blob(t, repository, "application/vnd.oci.image.config.v1+json", config), "layers": descs,
	})
	out.Manifest = Digest(manifest)
	r.PutManifest(t, repository, tag, ManifestType, manifest)
	return out
}

// PutManifest puts a manifest or index under a name and its digest.
func (r *Registry) PutManifest(t testing.TB, repository, tag, kind string, data []byte) {
	t.Helper()
	for _, reference := range []string{tag, Digest(data)} {
		r.put(t, "/v2/"+repository+"/manifests/"+reference, kind, data, http.MethodPut)
	}
}

func (r *Registry) blob(t testing.TB, repository, kind string, data []byte) map[string]any {
	t.Helper()
	r.mu.Lock()
	r.sizes[Digest(data)] = len(data)
	r.mu.Unlock()
	r.put(t, "/v2/"+repository+"/blobs/uploads/?digest="+Digest(data), "application/octet-stream", data, http.MethodPost)
	return map[string]any{"mediaType": kind, "digest": Digest(data), "size": len(data)}
}

func (r *Registry) put(t testing.TB, target, kind string, data []byte, method string) {
	t.Helper()
	req := httptest.NewRequest(method, target, strings.NewReader(string(data)))
	req.Header.Set("Content-Type", kind)
	answer := httptest.NewRecorder()
	r.base.ServeHTTP(answer, req)
	if answer.Code >= http.StatusBadRequest {
		t.Fatalf("put %s: %d %s", target, answer.Code, answer.Body)
	}
}

// LayerOf is a layer of one file.
func LayerOf(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// DockerConfig is a pull secret's content for a registry.
func DockerConfig(host, user, password string) []byte {
	data, _ := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]any{
		"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password)),
	}}})
	return data
}
