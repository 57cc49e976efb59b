package harness

import (
	"context"
	"fmt"
	"os"
	"time"
)

// tailBytes is how much of a log an error quotes.
const tailBytes = 4096

// Until calls check every interval until it returns nil, and gives up with its
// last error when the context ends.
func Until(ctx context.Context, interval time.Duration, check func() error) error {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-ticks.C:
		}
	}
}

// Tail returns the end of a log file, for error messages.
func Tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-tailBytes):])
}
