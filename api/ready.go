package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// readyPoll is how often AwaitReady asks; the answer costs some 50 µs.
const readyPoll = 5 * time.Millisecond

// maxReadyReport bounds what is quoted of a refusal.
const maxReadyReport = 64 << 10

// AwaitReady returns once every start hook has done its work and /readyz says
// so. When ctx ends first, the error tells which check was still missing.
func (s *Server) AwaitReady(ctx context.Context) error {
	for {
		missing, err := s.missing(ctx)
		if err == nil && missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the API to be ready: %w: %s", ctx.Err(), missing)
		case <-time.After(readyPoll):
		}
	}
}

// missing returns what /readyz reports as not ready, "" when all is.
func (s *Server) missing(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shoal.internal/readyz", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+s.loopback.BearerToken)
	resp, err := s.inproc.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReadyReport))
	if err != nil || resp.StatusCode == http.StatusOK {
		return "", err
	}
	return strings.TrimSpace(string(body)), nil
}
