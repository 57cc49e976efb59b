package agent

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"shoal/agent/image"
)

// imagesPath is shoal's own addition to the kubelet's API.
const imagesPath = "/shoal/v1/images"

func (a *Agent) imageRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+imagesPath, a.listImages)
	mux.HandleFunc("POST "+imagesPath, a.importImages)
	mux.HandleFunc("POST "+imagesPath+"/pull", a.pullImage)
	mux.HandleFunc("DELETE "+imagesPath, a.removeImage)
}

// imageList is the answer to GET.
type imageList struct {
	Items []image.Summary `json:"items"`
}

func (a *Agent) listImages(w http.ResponseWriter, r *http.Request) {
	items, err := a.images.List(namespaces.WithNamespace(r.Context(), a.o.ContainerdNamespace))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, imageList{items})
}

func (a *Agent) removeImage(w http.ResponseWriter, r *http.Request) {
	err := a.images.Remove(namespaces.WithNamespace(r.Context(), a.o.ContainerdNamespace), r.URL.Query().Get("ref"))
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
	_, err := a.images.Import(namespaces.WithNamespace(r.Context(), a.o.ContainerdNamespace), r.Body, lines.send)
	lines.end("loaded", err)
}

func (a *Agent) pullImage(w http.ResponseWriter, r *http.Request) {
	var creds []image.Credentials
	if user, password, ok := r.BasicAuth(); ok {
		creds = []image.Credentials{{Username: user, Password: password}}
	}
	lines := newProgressLines(w)
	_, err := a.images.Pull(namespaces.WithNamespace(r.Context(), a.o.ContainerdNamespace), r.URL.Query().Get("ref"), creds, lines.send)
	lines.end("pulled", err)
}

// progressLines writes progress as JSON lines. A pull that outlives its
// request may still report; after the end nothing is written.
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
