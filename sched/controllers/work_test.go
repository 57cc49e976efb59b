package controllers

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// TestAPoisonedKeyHarmsNoOther: a key that panics is named, tried again, and
// the others are worked on.
func TestAPoisonedKeyHarmsNoOther(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	seen := map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	work := newKeyedWork("test", slog.New(slog.NewTextHandler(&log, nil)), func(_ context.Context, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if seen[key]++; seen["bad"] >= 3 && seen["failing"] >= 3 && seen["good"] == 1 {
			cancel()
		}
		switch key {
		case "bad":
			panic("poisoned")
		case "failing":
			return errors.New("not yet")
		}
		return nil
	})
	for _, key := range []string{"bad", "failing", "good"} {
		work.queue.Add(key)
	}
	if err := work.run(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"object=bad", "poisoned", "work_test.go", "object=failing"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not mention %s:\n%s", want, log.String())
		}
	}
}
