package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	apiCallers = 8
	// apiWindow is how long each kind of operation is driven.
	apiWindow = 5 * time.Second
	apiSpace  = "bench-api"
)

// apiThroughput reports operations per second of eight callers that each wait
// for an answer before the next call, in protobuf.
func apiThroughput(ctx context.Context, b *bench) error {
	daemon, err := b.running(ctx)
	if err != nil {
		return err
	}
	config, err := daemon.RestConfig()
	if err != nil {
		return err
	}
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: apiSpace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{}); err != nil {
		return err
	}
	maps := client.CoreV1().ConfigMaps(apiSpace)
	for _, kind := range []struct {
		name      string
		call      func(ctx context.Context, caller, i int) error
		to        target
		reference string
	}{
		{"create", creator(maps), atLeast(1300), "886"},
		{"update", updater(maps), atLeast(1000), "671"},
		{"get", getter(maps), atLeast(2800), "1804"},
	} {
		rate, err := drive(ctx, kind.call)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		report(fmt.Sprintf("API %s, 8 callers, protobuf", kind.name), rate, "ops/s", kind.to, kind.reference)
	}
	return client.CoreV1().Namespaces().Delete(ctx, apiSpace, metav1.DeleteOptions{})
}

func objectName(caller, i int) string { return fmt.Sprintf("object-%d-%d", caller, i) }

func creator(maps typedcorev1.ConfigMapInterface) func(context.Context, int, int) error {
	return func(ctx context.Context, caller, i int) error {
		_, err := maps.Create(ctx, smallObject(objectName(caller, i)), metav1.CreateOptions{})
		return err
	}
}

// updater changes one object per caller again and again.
func updater(maps typedcorev1.ConfigMapInterface) func(context.Context, int, int) error {
	return func(ctx context.Context, caller, i int) error {
		object := smallObject(objectName(caller, 0))
		object.Data["key"] = fmt.Sprint(i)
		_, err := maps.Update(ctx, object, metav1.UpdateOptions{})
		return err
	}
}

func getter(maps typedcorev1.ConfigMapInterface) func(context.Context, int, int) error {
	return func(ctx context.Context, caller, i int) error {
		_, err := maps.Get(ctx, objectName(caller, i%100), metav1.GetOptions{})
		return err
	}
}

// drive calls from all callers for the length of the window and returns the
// answered calls per second.
func drive(ctx context.Context, call func(ctx context.Context, caller, i int) error) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var answered atomic.Int64
	var callers sync.WaitGroup
	began := time.Now()
	for caller := range apiCallers {
		callers.Go(func() {
			for i := 0; time.Since(began) < apiWindow && ctx.Err() == nil; i++ {
				if err := call(ctx, caller, i); err != nil {
					cancel(err)
					return
				}
				answered.Add(1)
			}
		})
	}
	callers.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return float64(answered.Load()) / time.Since(began).Seconds(), nil
}
