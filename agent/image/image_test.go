package image

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"shoal/agent/internal/testbed"
)

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"hello":               "docker.io/library/hello:latest",
		"hello:1":             "docker.io/library/hello:1",
		"me/hello":            "docker.io/me/hello:latest",
		"127.0.0.1:5000/x":    "127.0.0.1:5000/x:latest",
		"quay.io/a/b:c":       "quay.io/a/b:c",
		"index.docker.io/a/b": "docker.io/a/b:latest",
		"quay.io/a/b:c@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "quay.io/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	} {
		if got, err := Normalize(in); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
	if _, err := Normalize("Not/Valid:::"); err == nil {
		t.Error("an invalid name is accepted")
	}
}

func TestFromSecret(t *testing.T) {
	secret := func(kind v1.SecretType, key, data string) *v1.Secret {
		return &v1.Secret{Type: kind, Data: map[string][]byte{key: []byte(data)}}
	}
	for name, test := range map[string]struct {
		secret *v1.Secret
		want   []string
		fails  bool
	}{
		"user and password": {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":{"https://reg:5000/v1/":{"username":"u","password":"p"}}}`), []string{"u p"}, false},
		"auth":              {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":{"reg:5000":{"auth":"dTpwOnE="}}}`), []string{"u p:q"}, false},
		"another registry":  {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":{"other":{"username":"u","password":"p"}}}`), nil, false},
		"most specific":     {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":{"reg:5000":{"username":"all","password":"p"},"reg:5000/a":{"username":"a","password":"p"},"reg:5000/b":{"username":"b","password":"p"}}}`), []string{"a p", "all p"}, false},
		"old form":          {secret(v1.SecretTypeDockercfg, v1.DockerConfigKey, `{"reg:5000":{"username":"u","password":"p"}}`), []string{"u p"}, false},
		"not JSON":          {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `hush-hush`), nil, true},
		"wrong type":        {secret(v1.SecretTypeOpaque, "x", ""), nil, true},
	} {
		creds, err := FromSecret(test.secret, "reg:5000/a/b:v1")
		var got []string
		for _, c := range creds {
			got = append(got, c.Username+" "+c.Password)
		}
		if !slices.Equal(got, test.want) || (err != nil) != test.fails {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
}

// credentials are those of a pull secret with that uid.
func credentials(t *testing.T, uid, ref, host, password string) []Credentials {
	t.Helper()
	creds, err := FromSecret(&v1.Secret{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID("uid-" + uid), Namespace: "ns", Name: uid},
		Type:       v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: testbed.DockerConfig(host, "u", password)},
	}, ref)
	if err != nil || len(creds) != 1 {
		t.Fatalf("credentials: %v, %v", creds, err)
	}
	return creds
}

func newStore(t *testing.T, o Config) (*Store, context.Context) {
	t.Helper()
	ctrd := testbed.StartContainerd(t)
	return NewInCell(ctrd.Client, "overlayfs", o), namespaces.WithNamespace(t.Context(), testbed.Namespace)
}

func TestStore(t *testing.T) {
	s, ctx := newStore(t, Config{})
	layer := testbed.Layer(t)

	if _, err := s.Get(ctx, "hello"); !errors.Is(err, ErrNotPresent) {
		t.Errorf("an absent image: %v", err)
	}
	var steps []Progress
	names, err := s.Import(ctx, bytes.NewReader(testbed.DockerArchive(t, "hello", layer)), func(p Progress) { steps = append(steps, p) })
	if err != nil || !slices.Equal(names, []string{"docker.io/library/hello:latest"}) || len(steps) < 3 {
		t.Fatalf("import: %q, %v, %d steps", names, err, len(steps))
	}
	img, err := s.Get(ctx, "hello")
	if err != nil || img.Config.Cmd[0] != "/bin/sh" || !strings.HasPrefix(img.ID, "sha256:") || !img.Open() {
		t.Errorf("get: %+v, %v", img, err)
	}
	if _, err := s.Import(ctx, strings.NewReader("this is no tar"), func(Progress) {}); err == nil {
		t.Error("an import of rubbish succeeds")
	}

	reg := testbed.StartRegistry(t, false)
	pushed := reg.Push(t, "x/y:v1", "amd64", layer)
	var last Progress
	img, err = s.Pull(ctx, reg.Host+"/x/y:v1", nil, func(p Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	if want := reg.Host + "/x/y@" + pushed.Manifest; img.ID != want || !img.Open() {
		t.Errorf("image id %s, want %s", img.ID, want)
	}
	if last.Status != "pulled" || last.Took == 0 || last.PeerBytes != 0 {
		t.Errorf("the last report: %+v", last)
	}
	if img, err := s.Get(ctx, reg.Host+"/x/y:other@"+pushed.Manifest); err != nil || img.ID != reg.Host+"/x/y@"+pushed.Manifest {
		t.Errorf("by the digest of an image that is here: %v, %v", img, err)
	}
	if _, err := s.Pull(ctx, reg.Host+"/x/y:v2", nil, nil); err == nil || !strings.Contains(err.Error(), reg.Host+"/x/y:v2: not found") || errors.Is(err, ErrRegistryUnavailable) {
		t.Errorf("an unknown tag: %v", err)
	}
	if _, err := s.Pull(ctx, "127.0.0.1:1/x:v1", nil, nil); !errors.Is(err, ErrRegistryUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no registry: %v", err)
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 3 || list[0].SizeBytes == 0 || list[0].ID == "" {
		t.Errorf("list: %+v, %v", list, err)
	}
	if onNode, err := s.NodeImages(ctx); err != nil || len(onNode) != 2 || onNode[0].SizeBytes < onNode[1].SizeBytes {
		t.Errorf("images of the node: %+v, %v", onNode, err)
	}
	if err := s.Remove(ctx, "hello"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(ctx, "hello"); !errors.Is(err, ErrNotPresent) {
		t.Errorf("a second removal: %v", err)
	}
	if _, err := s.Get(ctx, "hello"); !errors.Is(err, ErrNotPresent) {
		t.Errorf("a removed image: %v", err)
	}
	if held, err := s.client.LeasesService().List(ctx, fmt.Sprintf("labels.%q==%q", labelFor, "an archive")); err != nil || len(held) > 0 {
		t.Errorf("leases of imports are left: %v, %v", held, err)
	}
}

func TestPrivateRegistries(t *testing.T) {
	dir := t.TempDir()
	s, ctx := newStore(t, Config{AuthFile: filepath.Join(dir, "config.json")})
	layer := testbed.Layer(t)
	for _, token := range []bool{false, true} {
		reg := testbed.StartRegistry(t, false)
		reg.Push(t, "x/y:v1", "amd64", layer)
		reg.Password, reg.Token = "let-me-in", token
		name := reg.Host + "/x/y:v1"
		wrong, right := credentials(t, "wrong", name, reg.Host, "wrong-guess"), credentials(t, "right", name, reg.Host, "let-me-in")
		if _, err := s.Pull(ctx, name, nil, nil); err == nil || errors.Is(err, ErrRegistryUnavailable) {
			t.Errorf("token %v: without credentials: %v", token, err)
		}
		if _, err := s.Pull(ctx, name, wrong, nil); err == nil || strings.Contains(err.Error(), "wrong-guess") {
			t.Errorf("token %v: wrong credentials: %v", token, err)
		}
		img, err := s.Pull(ctx, name, append(wrong, right...), nil)
		if err != nil {
			t.Fatalf("token %v: right credentials: %v", token, err)
		}
		if img.Open() || img.Allows(nil) || img.Allows(wrong) || !img.Allows(right) {
			t.Errorf("token %v: who may use it: %+v", token, img.access)
		}
		if again, err := s.Get(ctx, name); err != nil || again.Open() || !again.Allows(right) {
			t.Errorf("token %v: what is remembered: %+v, %v", token, again, err)
		}
		if err := os.WriteFile(s.o.AuthFile, testbed.DockerConfig(reg.Host, "node", "let-me-in"), 0o600); err != nil {
			t.Fatal(err)
		}
		if img, err := s.Pull(ctx, name, nil, nil); err != nil || !img.Open() || !img.Allows(right) {
			t.Errorf("token %v: with the host's credentials: %v", token, err)
		}
	}
}

// TestHosts: an authority of its own, a mirror, and plain http, said in files
// that are read without a restart.
func TestHosts(t *testing.T) {
	dir := t.TempDir()
	s, ctx := newStore(t, Config{HostDirs: []string{filepath.Join(dir, "absent"), dir}})
	write := func(host, file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, host), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, host, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	layer := testbed.Layer(t)
	secure := testbed.StartRegistry(t, true)
	image := secure.Push(t, "x/y:v1", "amd64", layer)
	secure.Password = "let-me-in"

	name := "registry.example.com/x/y:v1"
	creds := credentials(t, "s", name, "registry.example.com", "let-me-in")
	write("registry.example.com", "hosts.toml", fmt.Sprintf("server = %q\n", secure.URL()))
	if _, err := s.Pull(ctx, name, creds, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an authority nobody knows: %v", err)
	}
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.CA()}), 0o600); err != nil {
		t.Fatal(err)
	}
	write("registry.example.com", "hosts.toml", fmt.Sprintf("server = %q\nca = %q\n", secure.URL(), ca))
	if _, err := s.Pull(ctx, name, creds, nil); err == nil {
		t.Error("a registry under another name is given the credentials")
	}
	if _, err := s.Pull(ctx, secure.Host+"/x/y:v1", credentials(t, "s", secure.Host+"/x/y:v1", secure.Host, "let-me-in"), nil); err != nil {
		t.Errorf("a registry with a certificate of its own on loopback: %v", err)
	}
	secure.Password = ""
	if _, err := s.Pull(ctx, name, nil, nil); err != nil {
		t.Errorf("an authority in a file: %v", err)
	}

	mirror := testbed.StartRegistry(t, false)
	mirror.Push(t, "m/n:v1", "amd64", layer)
	write("origin.example.com", "hosts.toml", fmt.Sprintf("server = \"https://127.0.0.1:1\"\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.URL()))
	if _, err := s.Pull(ctx, "origin.example.com/m/n:v1", nil, nil); err != nil {
		t.Errorf("by a mirror: %v", err)
	}
	_ = image
}

func TestOtherPlatform(t *testing.T) {
	s, ctx := newStore(t, Config{})
	reg := testbed.StartRegistry(t, false)
	layer := []byte("not read")
	image := reg.Push(t, "x/arm:v1", "arm64", layer)
	_, err := s.Pull(ctx, reg.Host+"/x/arm:v1", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "made for linux/arm64, and this host is linux/amd64") {
		t.Errorf("an image of another architecture: %v", err)
	}
	if n := reg.Sent(image.Layers[0]); n != 0 {
		t.Errorf("%d bytes of its layer were fetched", n)
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":1,"platform":{"architecture":"arm64","os":"linux"}},{"mediaType":%q,"digest":%q,"size":1,"platform":{"architecture":"s390x","os":"linux"}}]}`,
		testbed.IndexType, testbed.ManifestType, image.Manifest, testbed.ManifestType, image.Manifest)
	reg.PutManifest(t, "x/arm", "many", testbed.IndexType, []byte(index))
	_, err = s.Pull(ctx, reg.Host+"/x/arm:many", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "made for linux/arm64, linux/s390x, and this host is linux/amd64") {
		t.Errorf("an index without this architecture: %v", err)
	}
}

// TestWrongLayer: what has another digest is refused, named, and not kept.
func TestWrongLayer(t *testing.T) {
	s, ctx := newStore(t, Config{})
	reg := testbed.StartRegistry(t, false)
	layer := testbed.Layer(t)
	image := reg.Push(t, "x/y:v1", "amd64", layer)
	reg.Serve = func(w http.ResponseWriter, _ *http.Request, digest string) bool {
		if digest != image.Layers[0] {
			return false
		}
		wrong := bytes.Clone(layer)
		wrong[len(wrong)/2]++
		_, _ = w.Write(wrong)
		return true
	}
	_, err := s.Pull(ctx, reg.Host+"/x/y:v1", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "registry "+reg.Host+" gave as "+image.Layers[0]+" is not that") {
		t.Errorf("a layer with another digest: %v", err)
	}
	reg.Serve = nil
	if _, err := s.Pull(ctx, reg.Host+"/x/y:v1", nil, nil); err != nil {
		t.Errorf("after the registry was repaired: %v", err)
	}
}

// TestResume: a transfer that breaks off or stalls goes on where it was.
func TestResume(t *testing.T) {
	s, ctx := newStore(t, Config{StallTimeout: 3 * time.Second})
	reg := testbed.StartRegistry(t, false)
	layer := noise(4<<20, 1)
	image := reg.Push(t, "x/y:v1", "amd64", testbed.Layer(t), layer)
	var mu sync.Mutex
	var ranges []string
	reg.Serve = func(w http.ResponseWriter, r *http.Request, digest string) bool {
		if digest != image.Layers[1] {
			return false
		}
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		first := len(ranges) == 1
		mu.Unlock()
		if !first {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
		_, _ = w.Write(layer[:2<<20])
		w.(http.Flusher).Flush()
		<-r.Context().Done() // nothing more comes
		return true
	}
	// The layer is no tar: it is brought, and cannot be unpacked.
	if _, err := s.Pull(ctx, reg.Host+"/x/y:v1", nil, nil); err == nil || errors.Is(err, ErrRegistryUnavailable) {
		t.Errorf("a layer that is no archive: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ranges) != 2 || !strings.HasPrefix(ranges[1], "bytes=") {
		t.Errorf("ranges asked for: %q", ranges)
	}
	if sent := reg.Sent(image.Layers[1]); sent > int64(len(layer))+64<<10 {
		t.Errorf("%d bytes were sent of %d", sent, len(layer))
	}
}

// noise is data that does not compress and differs by seed.
func noise(n int, seed uint64) []byte {
	out := make([]byte, n)
	for i := range out {
		seed = seed*6364136223846793005 + 1442695040888963407
		out[i] = byte(seed >> 56)
	}
	return out
}
