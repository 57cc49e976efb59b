//go:build linux

package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// progress tells a person how the start goes, a line per step; with JSON logs
// each step is a log record instead.
type progress struct {
	mu    sync.Mutex // guards out
	out   io.Writer
	log   *slog.Logger
	json  bool
	begun time.Time
}

func newProgress(out io.Writer, log *slog.Logger, json bool) *progress {
	return &progress{out: out, log: log, json: json, begun: time.Now()}
}

// step runs do and reports it by name, with how long it took.
func (p *progress) step(name string, do func() error) error {
	start := time.Now()
	if err := do(); err != nil {
		return err
	}
	p.say(name, time.Since(start))
	return nil
}

func (p *progress) say(name string, took time.Duration) {
	if p.json {
		p.log.Info("start step", "step", name, "tookMs", took.Milliseconds())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, "  ✓ %-44s %5d ms\n", name, took.Milliseconds())
}

// warn says what is not as it should be, and does not keep the daemon from going on.
func (p *progress) warn(what string) {
	if p.json {
		p.log.Warn("start goes on", "problem", what)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, "  ! %s\n", what)
}

func (p *progress) ready(node, server, kubeconfig string) {
	if p.json {
		p.log.Info("ready", "node", node, "server", server, "kubeconfig", kubeconfig, "tookMs", time.Since(p.begun).Milliseconds())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, "shoal is ready: node %s, API %s (%.1f s)\nkubectl: export KUBECONFIG=%s\n", node, server, time.Since(p.begun).Seconds(), kubeconfig)
}

// newLogger logs to w in the chosen format.
func newLogger(w io.Writer, format string) *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv("SHOAL_DEBUG") != "" {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
