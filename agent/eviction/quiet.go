package eviction

import (
	"context"
	"log/slog"
)

// routine are upstream's lines that say nothing to the person on call: one per
// turn of its loop for each signal the host has no reading of, as inodes of a
// file system without any, and those about the loop itself.
var routine = map[string]bool{
	"Eviction manager: no observation found for eviction signal": true,
	"Eviction manager: starting control loop":                    true,
	"Eviction manager: monitoring loop exiting":                  true,
}

// quiet passes on what upstream's manager logs, but for what is routine and for
// what comes of a monitor that stops: it takes that for failures.
type quiet struct {
	slog.Handler
	stopping <-chan struct{}
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	select {
	case <-q.stopping:
		return nil
	default:
	}
	if r.Level < slog.LevelWarn && routine[r.Message] {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.stopping}
}

func (q quiet) WithGroup(name string) slog.Handler {
	return quiet{q.Handler.WithGroup(name), q.stopping}
}
