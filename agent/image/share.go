package image

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// SharePath is where peers ask each other, on the agent's port.
	SharePath = "/shoal/v1/blobs/"
	// DefaultShareRate is what a host gives to peers, in bytes per second, if
	// nobody says otherwise: 1 Gbit/s.
	DefaultShareRate = 125_000_000
	// maxUploads bounds blobs being given at once: those who come later are
	// soon sent to those who were served first.
	maxUploads = 4
	// shareBurst is how much may be given at once; also a read's size.
	shareBurst = 1 << 20
)

// ShareHandler answers peers, below SharePath. Whoever mounts it lets in only
// hosts of the cell.
func (s *Store) ShareHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+SharePath+"{digest}", s.giveBlob)
	mux.HandleFunc("POST "+SharePath+"{digest}/where", s.sayWhere)
	mux.HandleFunc("POST "+SharePath+"{digest}/state", s.takeState)
	mux.HandleFunc("GET "+SharePath+"loaded", s.sayLoaded)
	return mux
}

func digestIn(w http.ResponseWriter, r *http.Request) (digest.Digest, bool) {
	d, err := digest.Parse(r.PathValue("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return "", false
	}
	return d, true
}

// sayWhere answers who has a blob, and waits for news like tracker.ask.
func (s *Store) sayWhere(w http.ResponseWriter, r *http.Request) {
	d, ok := digestIn(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), trackWait)
	defer cancel()
	answer := s.tracker.ask(ctx, d, r.FormValue("host"), s.ownName(ctx, d))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// ownName is this host's name if it has the blob.
func (s *Store) ownName(ctx context.Context, d digest.Digest) string {
	if _, err := s.client.ContentStore().Info(ctx, d); err != nil || s.o.ShareRate < 0 {
		return ""
	}
	return s.o.Self
}

func (s *Store) takeState(w http.ResponseWriter, r *http.Request) {
	d, ok := digestIn(w, r)
	if !ok {
		return
	}
	s.tracker.note(d, r.FormValue("host"), blobState(r.FormValue("state")))
	w.WriteHeader(http.StatusNoContent)
}

// giveBlob sends a blob, from where the request's range begins. It is slowed
// down to the host's share rate.
func (s *Store) giveBlob(w http.ResponseWriter, r *http.Request) {
	d, ok := digestIn(w, r)
	if !ok {
		return
	}
	info, err := s.client.ContentStore().Info(r.Context(), d)
	if err != nil || s.o.ShareRate < 0 {
		http.Error(w, "this host has no such blob", http.StatusNotFound)
		return
	}
	offset, ok := rangeStart(r.Header.Get("Range"), info.Size)
	if !ok {
		http.Error(w, "only ranges from an offset to the end are given", http.StatusRequestedRangeNotSatisfiable)
		return
	}
	if r.Method == http.MethodGet {
		select {
		case s.uploads <- struct{}{}:
			defer func() { <-s.uploads }()
		default:
			http.Error(w, "this host gives to as many others as it may", http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size-offset, 10))
	if offset > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, info.Size-1, info.Size))
		w.WriteHeader(http.StatusPartialContent)
	}
	if r.Method == http.MethodGet {
		s.send(r.Context(), w, d, offset, info.Size)
	}
}

// rangeStart reads the one form of range that peers use.
func rangeStart(header string, size int64) (int64, bool) {
	if header == "" {
		return 0, true
	}
	text, ok := strings.CutPrefix(header, "bytes=")
	text, open := strings.CutSuffix(text, "-")
	start, err := strconv.ParseInt(text, 10, 64)
	return start, ok && open && err == nil && start >= 0 && start < size
}

func (s *Store) send(ctx context.Context, w http.ResponseWriter, d digest.Digest, offset, size int64) {
	reader, err := s.client.ContentStore().ReaderAt(ctx, ocispec.Descriptor{Digest: d, Size: size})
	if err != nil {
		return // fewer bytes than were promised: the peer asks another
	}
	defer reader.Close()
	deadline := http.NewResponseController(w)
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for offset < size {
		chunk := (*buffer)[:min(size-offset, shareBurst)]
		if err := s.rate.WaitN(ctx, len(chunk)); err != nil {
			return
		}
		n, err := reader.ReadAt(chunk, offset)
		if n == 0 && err != nil {
			return
		}
		_ = deadline.SetWriteDeadline(time.Now().Add(s.o.StallTimeout))
		if _, err := w.Write(chunk[:n]); err != nil {
			return
		}
		offset += int64(n)
	}
}
