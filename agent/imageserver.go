package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"shoal/agent/image"
)

// imagesPath is shoal's own addition to the kubelet's API.
const imagesPath = "/shoal/v1/images"

// registryAuthHeader carries a user's credentials for a registry as Docker's API
// does: JSON in base64url. The API server, which hands requests on, would take
// an Authorization header for its own.
const registryAuthHeader = "X-Registry-Auth"

func (a *Agent) imageRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+imagesPath, a.listImages)
	mux.HandleFunc("POST "+imagesPath, a.importImages)
	mux.HandleFunc("POST "+imagesPath+"/pull", a.pullImage)
	mux.HandleFunc("POST "+imagesPath+"/push", a.pushImage)
	mux.HandleFunc("POST "+imagesPath+"/share", a.shareImage)
	mux.HandleFunc("DELETE "+imagesPath, a.removeImage)
	share := a.images.ShareHandler()
	mux.HandleFunc(image.SharePath, func(w http.ResponseWriter, r *http.Request) {
		share.ServeHTTP(w, r.WithContext(a.imageContext(r)))
	})
}

func (a *Agent) imageContext(r *http.Request) context.Context {
	return namespaces.WithNamespace(r.Context(), a.o.ContainerdNamespace)
}

// imageList is the answer to GET.
type imageList struct {
	Items []image.Summary `json:"items"`
}

func (a *Agent) listImages(w http.ResponseWriter, r *http.Request) {
	items, err := a.images.List(a.imageContext(r))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, imageList{items})
}

func (a *Agent) removeImage(w http.ResponseWriter, r *http.Request) {
	err := a.images.Remove(a.imageContext(r), r.URL.Query().Get("ref"))
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, image.ErrNotPresent):
		http.Error(w, err.Error(), http.StatusNotFound)
	default:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// importImages reads a tar and answers with one JSON line per step; the last
// has done set, and error if it failed.
func (a *Agent) importImages(w http.ResponseWriter, r *http.Request) {
	lines := newProgressLines(w)
	_, err := a.images.Import(a.imageContext(r), r.Body, lines.send)
	lines.end("loaded", err)
}

func (a *Agent) pullImage(w http.ResponseWriter, r *http.Request) {
	creds, err := registryAuth(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	lines := newProgressLines(w)
	_, err = a.images.Pull(a.imageContext(r), r.URL.Query().Get("ref"), creds, lines.send)
	lines.end("pulled", err)
}

// pushImage sends an image of this host to the registry that the query's "to"
// names, or its own.
func (a *Agent) pushImage(w http.ResponseWriter, r *http.Request) {
	creds, err := registryAuth(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, ref := a.imageContext(r), r.URL.Query().Get("ref")
	if _, err := a.images.Get(ctx, ref); errors.Is(err, image.ErrNotPresent) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	lines := newProgressLines(w)
	err = a.images.Push(ctx, ref, r.URL.Query().Get("to"), creds, lines.send)
	lines.end("pushed", err)
}

// shareImage gets an image that was loaded on the host the query's "from"
// names.
func (a *Agent) shareImage(w http.ResponseWriter, r *http.Request) {
	lines := newProgressLines(w)
	ref := r.URL.Query().Get("ref")
	img, err := a.images.PullLoaded(a.imageContext(r), ref, r.URL.Query().Get("from"), lines.send)
	if err == nil {
		lines.send(image.Progress{Image: img.Name, Status: "loaded", Digest: img.Digest.String()})
	}
	lines.end("loaded", err)
}

func registryAuth(r *http.Request) ([]image.Credentials, error) {
	header := r.Header.Get(registryAuthHeader)
	if header == "" {
		return nil, nil
	}
	data, err := base64.URLEncoding.DecodeString(header)
	var auth struct{ Username, Password string }
	if err != nil || json.Unmarshal(data, &auth) != nil {
		return nil, errors.New("the header " + registryAuthHeader + " is not JSON in base64url")
	}
	return []image.Credentials{{Username: auth.Username, Password: auth.Password}}, nil
}

// progressLines writes progress as JSON lines. Work that outlives its request
// may still report; after the end nothing is written.
type progressLines struct {
	mu     sync.Mutex
	w      http.ResponseWriter
	closed bool // guarded by mu
}

func newProgressLines(w http.ResponseWriter) *progressLines {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &progressLines{w: w}
}

func (p *progressLines) send(step image.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	_ = json.NewEncoder(p.w).Encode(step)
	if f, ok := p.w.(http.Flusher); ok {
		f.Flush()
	}
}

func (p *progressLines) end(status string, err error) {
	last := image.Progress{Status: status, Done: true}
	if err != nil {
		last.Status, last.Error = "failed", err.Error()
	}
	p.send(last)
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
}
