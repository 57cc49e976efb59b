package api

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"shoal/api/hosts"
)

const (
	serviceName = "kubernetes"
	// comebackTries and comebackPause bound attempts at once: the address of the
	// service that was deleted may take a moment to be free. Upstream's loop tries
	// again each minute anyway.
	comebackTries = 5
	comebackPause = 200 * time.Millisecond
)

// comeback makes the `kubernetes` service anew as soon as somebody has deleted it:
// pods that start meanwhile would not be told where the API is. One host of those
// alive does it, so that no two make one each; upstream's controller, on every
// host, looks once a minute.
type comeback struct {
	self    string
	members hosts.Members // nil on a host alone
	make    func() error
	log     *slog.Logger
}

// follow watches until ctx ends.
func (c *comeback) follow(ctx context.Context, services cache.SharedIndexInformer) error {
	gone := make(chan struct{}, 1)
	handler, err := services.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = unknown.Obj
		}
		s, ok := obj.(*corev1.Service)
		if !ok || s.Name != serviceName || s.Namespace != metav1.NamespaceDefault {
			return
		}
		select {
		case gone <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		return fmt.Errorf("follow services: %w", err)
	}
	defer func() { _ = services.RemoveEventHandler(handler) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
		}
		if c.mine() {
			c.again(ctx)
		}
	}
}

func (c *comeback) mine() bool {
	return c.members == nil || hosts.Chosen(c.self, c.members.Alive(), "the kubernetes service")
}

func (c *comeback) again(ctx context.Context) {
	var err error
	for range comebackTries {
		if err = c.make(); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(comebackPause):
		}
	}
	c.log.Warn("the kubernetes service was deleted and could not be made again yet; will try within a minute", "error", err)
}
