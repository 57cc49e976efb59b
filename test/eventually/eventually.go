// Package eventually waits in tests for what others bring about. Nothing is
// asserted about how long it takes: the bound is far above what a busy machine
// needs, and ends a test that would hang.
package eventually

import (
	"context"
	"testing"
	"time"
)

const (
	within = 3 * time.Minute
	every  = 5 * time.Millisecond
)

// True waits until ok, and fails the test if that does not come about.
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		}
	}
}
