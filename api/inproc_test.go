package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func get(ctx context.Context, t *testing.T, h http.HandlerFunc) *http.Response {
	t.Helper()
	transport := newInproc()
	transport.bind(h)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shoal.internal/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestInprocCarriesStatusHeaderAndBody(t *testing.T) {
	resp := get(t.Context(), t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Kind", r.URL.Path)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("Late", "lost")
		_, _ = io.WriteString(w, "body")
	})
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "body" || resp.StatusCode != http.StatusTeapot || resp.Header.Get("Kind") != "/x" || resp.Header.Get("Late") != "" {
		t.Fatalf("%d %v %q %v", resp.StatusCode, resp.Header, body, err)
	}
}

func TestInprocStreamsWhileTheHandlerRuns(t *testing.T) {
	next := make(chan string)
	resp := get(t.Context(), t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		for line := range next {
			_, _ = io.WriteString(w, line)
			w.(http.Flusher).Flush()
		}
	})
	buf := make([]byte, 16)
	for _, line := range []string{"one", "two"} {
		next <- line
		n, err := resp.Body.Read(buf)
		if err != nil || string(buf[:n]) != line {
			t.Fatalf("read %q, %v; want %q", buf[:n], err, line)
		}
	}
	close(next)
	if _, err := resp.Body.Read(buf); err != io.EOF {
		t.Fatalf("after the handler: %v", err)
	}
}

func TestInprocClosingTheBodyEndsTheHandler(t *testing.T) {
	ended := make(chan error, 1)
	resp := get(t.Context(), t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		_, err := io.WriteString(w, "late")
		ended <- err
	})
	_ = resp.Body.Close()
	if err := <-ended; !errors.Is(err, errInprocClosed) {
		t.Fatalf("write after close: %v", err)
	}
}

func TestInprocAFullBufferHoldsTheHandlerBack(t *testing.T) {
	const size = 4 * maxInprocBuffer
	resp := get(t.Context(), t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := strings.Repeat("x", maxInprocBuffer)
		for range size / maxInprocBuffer {
			_, _ = io.WriteString(w, chunk)
		}
	})
	n, err := io.Copy(io.Discard, resp.Body)
	if n != size || err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
}

func TestInprocCancelledRequestReturns(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	transport := newInproc() // never bound: the server is not up yet
	cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shoal.internal/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transport.RoundTrip(req); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

func TestInprocAPanickingHandlerEndsTheBody(t *testing.T) {
	resp := get(t.Context(), t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	body, _ := io.ReadAll(resp.Body)
	if string(body) != "half" {
		t.Fatalf("read %q", body)
	}
}
