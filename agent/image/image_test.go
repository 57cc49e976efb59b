package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "k8s.io/api/core/v1"

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
		want   []Credentials
		fails  bool
	}{
		"user and password": {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":{"https://reg:5000/v1/":{"username":"u","password":"p"}}}`), []Credentials{{"u", "p"}}, false},
		"auth":              {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":{"reg:5000":{"auth":"dTpwOnE="}}}`), []Credentials{{"u", "p:q"}}, false},
		"another registry":  {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `{"auths":{"other":{"username":"u","password":"p"}}}`), nil, false},
		"old form":          {secret(v1.SecretTypeDockercfg, v1.DockerConfigKey, `{"reg:5000":{"username":"u","password":"p"}}`), []Credentials{{"u", "p"}}, false},
		"not JSON":          {secret(v1.SecretTypeDockerConfigJson, v1.DockerConfigJsonKey, `hush-hush`), nil, true},
		"wrong type":        {secret(v1.SecretTypeOpaque, "x", ""), nil, true},
	} {
		got, err := FromSecret(test.secret, "reg:5000")
		if !slices.Equal(got, test.want) || (err != nil) != test.fails {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
	if serverHost("https://index.docker.io/v1/") != "docker.io" {
		t.Error("Docker's own registry is not known by its old address")
	}
}

// registry serves one image as the distribution protocol says, behind basic
// authentication when password is set.
type registry struct {
	blobs    map[string][]byte
	manifest []byte
	password string
	pulls    atomic.Int32 // of manifests, by GET
}

func newRegistry(t *testing.T, layer []byte, password string) (*registry, string) {
	t.Helper()
	r := &registry{blobs: map[string][]byte{}, password: password}
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/hi"}, "Env": []string{"A=b"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestOf(layer)}},
	})
	describe := func(kind string, data []byte) map[string]any {
		r.blobs[digestOf(data)] = data
		return map[string]any{"mediaType": kind, "digest": digestOf(data), "size": len(data)}
	}
	r.manifest, _ = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": describe("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{describe("application/vnd.oci.image.layer.v1.tar", layer)},
	})
	r.blobs[digestOf(r.manifest)] = r.manifest
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, strings.TrimPrefix(server.URL, "http://")
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if _, password, _ := req.BasicAuth(); r.password != "" && password != r.password {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	name := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
	data, ok := r.blobs[name]
	if strings.Contains(req.URL.Path, "/manifests/") {
		if name == "v1" {
			data, ok = r.manifest, true
		}
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digestOf(data))
		if req.Method == http.MethodGet {
			r.pulls.Add(1)
		}
	}
	if !ok {
		http.Error(w, "not here", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	if req.Method != http.MethodHead {
		_, _ = w.Write(data)
	}
}

func TestStore(t *testing.T) {
	ctrd := testbed.StartContainerd(t)
	ctx := namespaces.WithNamespace(context.Background(), testbed.Namespace)
	s := New(ctrd.Client, "overlayfs")
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
	if err != nil || img.Config.Cmd[0] != "/bin/sh" || !strings.HasPrefix(img.ID, "sha256:") {
		t.Errorf("get: %+v, %v", img, err)
	}
	if _, err := s.Import(ctx, strings.NewReader("this is no tar"), func(Progress) {}); err == nil {
		t.Error("an import of rubbish succeeds")
	}

	open, host := newRegistry(t, layer, "")
	img, err = s.Pull(ctx, host+"/x/y:v1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := host + "/x/y@" + digestOf(open.manifest); img.ID != want {
		t.Errorf("image id %s, want %s", img.ID, want)
	}
	if _, err := s.Pull(ctx, host+"/x/y:v2", nil, nil); err == nil || !strings.Contains(err.Error(), host+"/x/y:v2") {
		t.Errorf("an unknown tag: %v", err)
	}

	_, closed := newRegistry(t, layer, "let-me-in")
	if _, err := s.Pull(ctx, closed+"/x/y:v1", []Credentials{{"u", "wrong-guess"}}, nil); err == nil || strings.Contains(err.Error(), "wrong-guess") {
		t.Errorf("wrong credentials: %v", err)
	}
	if _, err := s.Pull(ctx, closed+"/x/y:v1", []Credentials{{"u", "wrong-guess"}, {"u", "let-me-in"}}, nil); err != nil {
		t.Errorf("right credentials: %v", err)
	}

	list, err := s.List(ctx)
	if err != nil || len(list) != 3 || list[0].SizeBytes == 0 || list[0].ID == "" {
		t.Errorf("list: %+v, %v", list, err)
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
}
