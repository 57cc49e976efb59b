//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// gcPercent trades a little CPU for memory: the live heap is some 60 MB of
// schemas and caches that never change, so the collector's default of doubling
// it would cost as much again in garbage.
const gcPercent = 40

func tuneRuntime() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// quietLibraries sends what upstream's libraries log to our logger, as far as
// it is news to the person on call: see upstreamHandler. serving says whether
// the peer is between its start and its stop.
func quietLibraries(log *slog.Logger, serving func() bool) {
	handler := upstreamHandler{log.With("part", "kubernetes").Handler(), serving}
	klog.SetLogger(logr.FromSlogHandler(handler))
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	logrus.SetLevel(logrus.WarnLevel)
}

// chatter are upstream's messages about the ordinary: logged as errors, and
// nothing a person could or should act on.
var chatter = map[string]bool{
	"Error on socket receive": true, // the client of an exec or attach went away
}

// upstreamHandler lets warnings and errors through while the peer serves. While
// it starts, upstream's loops complain of objects that other hooks are about to
// make; while it stops, of connections that were closed on purpose. Those, and
// chatter, are for debugging only.
type upstreamHandler struct {
	slog.Handler
	serving func() bool
}

// Enabled implements slog.Handler.
func (h upstreamHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h upstreamHandler) Handle(ctx context.Context, record slog.Record) error {
	if !h.serving() || chatter[record.Message] {
		record.Level = slog.LevelDebug
		if !h.Handler.Enabled(ctx, record.Level) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h upstreamHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return upstreamHandler{h.Handler.WithAttrs(attrs), h.serving}
}

// WithGroup implements slog.Handler.
func (h upstreamHandler) WithGroup(name string) slog.Handler {
	return upstreamHandler{h.Handler.WithGroup(name), h.serving}
}
