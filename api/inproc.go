package api

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync"
)

// inproc is an http.RoundTripper that calls a handler in this process: no
// socket, no TLS, no HTTP framing. The daemon's own controllers make most of a
// cell's requests; through it they cost what the handler costs.
//
// The handler is bound late (bind), because clients are configured before the
// server they talk to exists. Requests made earlier wait for it or for their
// context.
type inproc struct {
	ready   chan struct{}
	handler http.Handler
	once    sync.Once
}

func newInproc() *inproc { return &inproc{ready: make(chan struct{})} }

func (t *inproc) bind(h http.Handler) {
	t.once.Do(func() { t.handler = h; close(t.ready) })
}

// RoundTrip implements http.RoundTripper.
func (t *inproc) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.roundTrip(req, nil)
}

// roundTrip makes a request as the holder of a client certificate, if state
// has one.
func (t *inproc) roundTrip(req *http.Request, state *tls.ConnectionState) (*http.Response, error) {
	select {
	case <-t.ready:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	ctx, cancel := context.WithCancel(req.Context())
	in := req.Clone(ctx)
	in.TLS = state
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := &inprocWriter{header: http.Header{}, started: make(chan struct{}), cancel: cancel, req: req}
	w.cond = sync.NewCond(&w.mu)
	go func() {
		defer w.finish()
		t.handler.ServeHTTP(w, in)
	}()
	select {
	case <-w.started:
		return w.response(), nil
	case <-req.Context().Done():
		w.abandon()
		return nil, req.Context().Err()
	}
}

// maxInprocBuffer bounds what a handler may write ahead of its reader; a slow
// reader then holds the handler back, as a full socket would.
const maxInprocBuffer = 256 << 10

var errInprocClosed = errors.New("in-process response is closed")

// inprocWriter is both ends of a response: the handler writes, the client
// reads. One buffer between them, guarded by mu; cond signals every change.
type inprocWriter struct {
	header  http.Header
	started chan struct{}
	cancel  context.CancelFunc
	req     *http.Request

	mu     sync.Mutex
	cond   *sync.Cond
	status int
	sent   http.Header // the header as of WriteHeader
	buf    []byte
	done   bool // the handler returned
	closed bool // the reader closed the body
}

var (
	_ http.Flusher      = (*inprocWriter)(nil)
	_ io.ReadCloser     = (*inprocBody)(nil)
	_ io.ReaderFrom     = (*inprocWriter)(nil)
	_ http.RoundTripper = (*inproc)(nil)
)

func (w *inprocWriter) Header() http.Header { return w.header }

func (w *inprocWriter) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeaderLocked(status)
}

func (w *inprocWriter) writeHeaderLocked(status int) {
	if w.status != 0 || status < http.StatusOK {
		return
	}
	w.status = status
	w.sent = w.header.Clone()
	close(w.started)
}

func (w *inprocWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeaderLocked(http.StatusOK)
	for len(w.buf) >= maxInprocBuffer && !w.closed {
		w.cond.Wait()
	}
	if w.closed {
		return 0, errInprocClosed
	}
	w.buf = append(w.buf, p...)
	w.cond.Broadcast()
	return len(p), nil
}

// ReadFrom keeps io.Copy from growing past the buffer's bound.
func (w *inprocWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

func (w *inprocWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify never fires: handlers follow the request's context. Upstream's
// wrappers pass Flush on only from a writer that has both methods, as those of
// the net/http servers do.
func (w *inprocWriter) CloseNotify() <-chan bool { return nil }

// finish ends the response when the handler returns; a handler that panics
// (http.ErrAbortHandler) breaks the body off as a closed connection would.
func (w *inprocWriter) finish() {
	recover() //nolint:errcheck // upstream's panic filter has logged it; the reader sees a short body
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeaderLocked(http.StatusOK)
	w.done = true
	w.cond.Broadcast()
	w.cancel()
}

func (w *inprocWriter) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.buf = nil
	w.cond.Broadcast()
	w.cancel()
}

func (w *inprocWriter) response() *http.Response {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &http.Response{
		Status:        http.StatusText(w.status),
		StatusCode:    w.status,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        w.sent,
		Body:          &inprocBody{w},
		ContentLength: -1,
		Request:       w.req,
	}
}

type inprocBody struct{ w *inprocWriter }

func (b *inprocBody) Read(p []byte) (int, error) {
	w := b.w
	stop := context.AfterFunc(w.req.Context(), func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cond.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) == 0 {
		switch {
		case w.closed:
			return 0, errInprocClosed
		case w.done:
			return 0, io.EOF
		case w.req.Context().Err() != nil:
			return 0, w.req.Context().Err()
		}
		w.cond.Wait()
	}
	n := copy(p, w.buf)
	w.buf = w.buf[n:]
	if len(w.buf) == 0 {
		w.buf = nil
	}
	w.cond.Broadcast()
	return n, nil
}

func (b *inprocBody) Close() error {
	b.w.abandon()
	return nil
}
