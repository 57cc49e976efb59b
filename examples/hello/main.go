// Command hello is the smallest web server worth a page: it says which pod and
// which node answered, and for what path. It is what the walk in the README
// runs, and a pod to point a service or a test at.
//
// It reads PORT (default 80), POD_NAME (default: the host name, which in a pod
// is the pod's name) and NODE_NAME. It stops at once when asked to.
package main

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Limits of a server that faces strangers.
const (
	headerTimeout = 5 * time.Second
	drainTimeout  = 2 * time.Second
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>hello from {{.Pod}}</title>
<style>
  body { font: 18px/1.6 system-ui, sans-serif; max-width: 32em; margin: 15vh auto; padding: 0 1em; color: #123; background: #f4f8fa }
  h1 { font-weight: 600; color: #067 }
  dt { float: left; clear: left; width: 5em; color: #678 }
  dd { margin: 0 0 0 6em; font-family: ui-monospace, monospace }
</style>
<h1>Hello, world</h1>
<dl>
  <dt>pod</dt><dd>{{.Pod}}</dd>
  {{- with .Node}}
  <dt>node</dt><dd>{{.}}</dd>
  {{- end}}
  <dt>path</dt><dd>{{.Path}}</dd>
</dl>
</html>
`))

// greeting is what the page shows.
type greeting struct{ Pod, Node, Path string }

func main() {
	if err := run(); err != nil {
		slog.Error("serve", "error", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read host name: %w", err)
	}
	server := &http.Server{
		Addr:              ":" + env("PORT", "80"),
		Handler:           handler(greeting{Pod: env("POD_NAME", host), Node: os.Getenv("NODE_NAME")}),
		ReadHeaderTimeout: headerTimeout,
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		stopped <- server.Shutdown(drain)
	}()
	slog.Info("listening", "address", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("listen: %w", err)
	}
	return <-stopped
}

// handler answers every path with the page and logs each request.
func handler(here greeting) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there := here
		there.Path = r.URL.Path
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := page.Execute(w, there); err != nil {
			slog.Warn("write page", "error", err)
			return
		}
		slog.Info("request", "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr)
	})
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
