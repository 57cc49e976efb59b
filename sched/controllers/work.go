package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"
)

// A key that fails is tried again after firstRetry, doubled per failure up to
// longestRetry.
const (
	firstRetry   = 5 * time.Millisecond
	longestRetry = time.Minute
)

// keyedWork runs one function per object key: never twice at once for the same
// key, again later when it failed, and without harm to the others when it
// panicked.
type keyedWork struct {
	name  string
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[string]
	sync  func(context.Context, string) error
}

func newKeyedWork(name string, log *slog.Logger, sync func(context.Context, string) error) *keyedWork {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, longestRetry)
	return &keyedWork{name: name, log: log, sync: sync, queue: workqueue.NewTypedRateLimitingQueue(limiter)}
}

func (k *keyedWork) run(ctx context.Context, workers int) error {
	var all errgroup.Group
	for range workers {
		all.Go(func() error {
			for k.one(ctx) {
			}
			return nil
		})
	}
	<-ctx.Done()
	k.queue.ShutDown()
	return all.Wait()
}

func (k *keyedWork) one(ctx context.Context) bool {
	key, quit := k.queue.Get()
	if quit {
		return false
	}
	defer k.queue.Done(key)
	err := k.guarded(ctx, key)
	if err == nil {
		k.queue.Forget(key)
		return true
	}
	if ctx.Err() == nil {
		k.log.Warn("reconciling failed; it is tried again", "controller", k.name, "object", key, "attempts", k.queue.NumRequeues(key)+1, "error", err)
	}
	k.queue.AddRateLimited(key)
	return true
}

// guarded turns a panic into an error that names where it came from.
func (k *keyedWork) guarded(ctx context.Context, key string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return k.sync(ctx, key)
}
