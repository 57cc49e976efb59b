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

// quietLibraries sends what upstream's libraries log to our logger, warnings
// and worse only: their information lines are for people debugging them.
func quietLibraries(log *slog.Logger) {
	handler := levelHandler{log.With("part", "kubernetes").Handler()}
	klog.SetLogger(logr.FromSlogHandler(handler))
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	logrus.SetLevel(logrus.WarnLevel)
}

// levelHandler lets warnings and errors through.
type levelHandler struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h levelHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h levelHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return levelHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h levelHandler) WithGroup(name string) slog.Handler {
	return levelHandler{h.Handler.WithGroup(name)}
}
