package controllers

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/klog/v2"
)

func supervised(t *testing.T, log *bytes.Buffer) *parts {
	t.Helper()
	return &parts{
		informers: informers.NewSharedInformerFactory(peer.Client, 0),
		shared:    newSharedInformers(informers.NewSharedInformerFactory(peer.Client, 0), nil, nil),
		log:       slog.New(slog.NewTextHandler(log, nil)),
	}
}

// TestALoopThatPanicsIsBuiltAnew, and named.
func TestALoopThatPanicsIsBuiltAnew(t *testing.T) {
	var log bytes.Buffer
	p := supervised(t, &log)
	ctx, cancel := context.WithCancel(t.Context())
	builds := 0
	l := loop{name: "fragile", build: func(context.Context, *parts) (func(context.Context), error) {
		builds++
		return func(context.Context) { cancel() }, nil
	}}
	l.supervise(ctx, p, func(context.Context) { panic("broken") })
	if builds != 1 {
		t.Errorf("built anew %d times, want once", builds)
	}
	for _, want := range []string{"controller=fragile", "broken", "started again"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not mention %q:\n%s", want, log.String())
		}
	}
}

// TestAnUpstreamWorkerSurvivesAPanic: upstream's workers run as here, and a
// panic in one must end neither the worker nor the process.
func TestAnUpstreamWorkerSurvivesAPanic(t *testing.T) {
	var log bytes.Buffer
	p := supervised(t, &log)
	ctx, cancel := context.WithCancel(t.Context())
	passes := 0
	l := loop{name: "upstream"}
	l.supervise(ctx, p, func(ctx context.Context) {
		wait.UntilWithContext(ctx, func(context.Context) {
			if passes++; passes == 3 {
				cancel()
				return
			}
			panic("poisoned object")
		}, time.Millisecond)
	})
	if passes != 3 {
		t.Errorf("%d passes, want 3", passes)
	}
	if !strings.Contains(log.String(), "controller=upstream") || !strings.Contains(log.String(), "poisoned object") {
		t.Errorf("the log does not name the loop and the panic:\n%s", log.String())
	}
}

// TestUpstreamsSmallTalkIsDebug: only what it reports as an error reaches the
// person on call.
func TestUpstreamsSmallTalkIsDebug(t *testing.T) {
	var log bytes.Buffer
	l := loop{name: "chatty"}
	logger := klog.FromContext(l.context(t.Context(), slog.New(slog.NewTextHandler(&log, nil))))
	logger.Info("starting workers")
	logger.V(2).Info("still here")
	if log.Len() > 0 {
		t.Errorf("logged at info: %s", log.String())
	}
	logger.Error(nil, "cannot sync")
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "cannot sync") {
		t.Errorf("an error is missing: %s", log.String())
	}
}
