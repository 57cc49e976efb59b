package objects

import (
	"context"
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
)

// A read or watch that failed is tried again after retryFirst, and up to
// retryMax later each time. The first failure is often the Node authorizer,
// which has not heard of the pod yet.
const (
	retryFirst = 200 * time.Millisecond
	retryMax   = 30 * time.Second
	// readTimeout bounds one read of the API.
	readTimeout = 10 * time.Second
	// pollPause is the least time between two reads of the poller.
	pollPause = 20 * time.Millisecond
)

// begin starts to follow an object, unless Run has not begun or has ended. It
// is called with mu held.
func (c *Cache) begin(o *object) {
	if c.ctx == nil || c.ctx.Err() != nil || o.cancel != nil {
		return
	}
	if c.watching >= c.maxWatches {
		if !c.polling {
			c.polling = true
			c.wg.Go(func() { c.poll(c.ctx) })
		}
		return
	}
	c.watching++
	o.watched = true
	var ctx context.Context
	ctx, o.cancel = context.WithCancel(c.ctx)
	c.wg.Go(func() { c.follow(ctx, o) })
}

// follow reads and watches an object until ctx ends, or until it says itself
// that it never changes.
func (c *Cache) follow(ctx context.Context, o *object) {
	backoff := wait.Backoff{Duration: retryFirst, Factor: 2, Jitter: 0.5, Steps: 20, Cap: retryMax}
	delay := backoff
	for ctx.Err() == nil {
		version, err := c.read(ctx, o, true)
		if err == nil && c.immutable(o) {
			c.mu.Lock()
			c.release(o)
			c.mu.Unlock()
			return
		}
		if err == nil {
			if err = c.watch(ctx, o, version); err == nil {
				delay = backoff // it was there, and its time was over
			}
			c.stale(o)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay.Step()):
		}
	}
}

func (c *Cache) immutable(o *object) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch v := o.value.(type) {
	case *v1.ConfigMap:
		return v.Immutable != nil && *v.Immutable
	case *v1.Secret:
		return v.Immutable != nil && *v.Immutable
	}
	return false
}

// read takes the object from the API and gives the version to watch from. A
// list of one also has that for an object that is not there.
func (c *Cache) read(ctx context.Context, o *object, fresh bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", o.key.name).String()}
	if o.key.resource == secrets {
		list, err := c.kube.CoreV1().Secrets(o.key.namespace).List(ctx, opts)
		if err != nil {
			return "", err
		}
		return list.ResourceVersion, putFirst(c, o, list.Items, fresh, func(s *v1.Secret) metav1.Object { return s })
	}
	list, err := c.kube.CoreV1().ConfigMaps(o.key.namespace).List(ctx, opts)
	if err != nil {
		return "", err
	}
	return list.ResourceVersion, putFirst(c, o, list.Items, fresh, func(m *v1.ConfigMap) metav1.Object { return m })
}

func putFirst[T any](c *Cache, o *object, items []T, fresh bool, as func(*T) metav1.Object) error {
	if len(items) == 0 {
		c.put(o, nil, fresh)
		return nil
	}
	c.put(o, as(&items[0]), fresh)
	return nil
}

// watch follows the object from a version on. It returns nil when the server
// ended the watch after some time, as it does.
func (c *Cache) watch(ctx context.Context, o *object, version string) error {
	opts := metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", o.key.name).String(),
		ResourceVersion: version,
	}
	var w watch.Interface
	var err error
	if o.key.resource == secrets {
		w, err = c.kube.CoreV1().Secrets(o.key.namespace).Watch(ctx, opts)
	} else {
		w, err = c.kube.CoreV1().ConfigMaps(o.key.namespace).Watch(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		switch e.Type {
		case watch.Added, watch.Modified:
			if value, ok := e.Object.(metav1.Object); ok {
				c.put(o, value, true)
			}
			if c.immutable(o) {
				return nil
			}
		case watch.Deleted:
			c.put(o, nil, true)
		case watch.Error:
			return errors.New("watch is over: its place in history is lost")
		}
	}
	return nil
}

// poll reads the objects that have no watch in turn, until there are none.
func (c *Cache) poll(ctx context.Context) {
	for {
		c.mu.Lock()
		var all []*object
		for _, o := range c.objects {
			if o.cancel == nil {
				all = append(all, o)
			}
		}
		c.polling = len(all) > 0
		c.mu.Unlock()
		if len(all) == 0 {
			return
		}
		pause := max(PollCycle/time.Duration(len(all)), pollPause)
		for _, o := range all {
			if c.polled(o) {
				_, _ = c.read(ctx, o, false) // its turn comes again
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

func (c *Cache) polled(o *object) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.objects[o.key] == o && o.cancel == nil
}
