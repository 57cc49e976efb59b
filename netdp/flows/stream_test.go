package flows

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	v1 "shoal/api/control/v1"
	"shoal/netdp"
)

// paced tells what it is given on a channel.
type paced struct {
	records chan netdp.FlowRecord
	ended   chan error
}

func (p *paced) RecentFlows() ([]netdp.FlowRecord, error) { return nil, nil }

func (p *paced) FollowFlows(ctx context.Context, each func(netdp.FlowRecord, bool) error) (err error) {
	defer func() { p.ended <- err }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case rec := <-p.records:
			if err := each(rec, false); err != nil {
				return err
			}
		}
	}
}

// stream follows by HTTP/2, as an API server does that hands the question on.
func stream(t *testing.T, dp *paced, stuck time.Duration) (*http.Response, func()) {
	t.Helper()
	names, err := NewNames(informers.NewSharedInformerFactory(fake.NewClientset(), 0))
	if err != nil {
		t.Fatal(err)
	}
	handler := NewServer(dp, names, "host1", slog.New(slog.DiscardHandler))
	handler.stuck = stuck
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+v1.FlowsPath+"?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if response.ProtoMajor != 2 {
		t.Fatalf("it speaks %s", response.Proto)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response, cancel
}

// A host on which nothing happens for long keeps its readers. What one may take
// for a line is longer with each try: a busy host may need it for a line alone.
func TestQuietStreamGoesOn(t *testing.T) {
	for stuck := 20 * time.Millisecond; ; stuck *= 5 {
		err := quietStream(t, stuck)
		if err == nil {
			return
		}
		if stuck > 2*time.Second {
			t.Fatalf("the reader was let go: %v", err)
		}
	}
}

// quietStream is why a reader was let go to whom nothing is said for longer than it
// may take for a line.
func quietStream(t *testing.T, stuck time.Duration) error {
	t.Helper()
	dp := &paced{records: make(chan netdp.FlowRecord), ended: make(chan error, 1)}
	response, leave := stream(t, dp, stuck)
	lines := json.NewDecoder(response.Body)
	for i := range 3 {
		time.Sleep(5 * stuck) // nothing happens
		rec := netdp.FlowRecord{Kind: netdp.FlowOpen, Proto: netdp.TCP, Count: uint64(i), Dst: netip.MustParseAddrPort("10.64.0.1:80")}
		select {
		case dp.records <- rec:
		case err := <-dp.ended:
			return err
		}
		var flow v1.Flow
		if err := lines.Decode(&flow); err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
		if flow.Count != uint64(i) || flow.Verdict != v1.Forwarded || flow.Destination.Address != "10.64.0.1:80" || flow.Host != "host1" {
			t.Errorf("line %d: %+v", i, flow)
		}
	}
	leave()
	return <-dp.ended
}

// A reader that takes nothing is let go.
func TestStuckReaderIsLetGo(t *testing.T) {
	dp := &paced{records: make(chan netdp.FlowRecord), ended: make(chan error, 1)}
	stream(t, dp, 50*time.Millisecond) // and its body is not read
	for {
		select {
		case dp.records <- netdp.FlowRecord{Kind: netdp.FlowOpen, Reason: "a word that fills the windows of the stream, sooner or later"}:
		case err := <-dp.ended:
			if err == nil {
				t.Error("it ended without a reason")
			}
			return
		}
	}
}
