package storage

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/sharding"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	apiserverstorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"shoal/store"
)

func (s *setup) watch(t testing.TB, opts apiserverstorage.ListOptions) watch.Interface {
	t.Helper()
	w, err := s.Watch(s.ctx, "/pods", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

func next(t testing.TB, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event")
	}
	panic("unreachable")
}

func expectEvent(t testing.TB, w watch.Interface, typ watch.EventType, name, label string) *example.Pod {
	t.Helper()
	e := next(t, w)
	pod, ok := e.Object.(*example.Pod)
	if !ok || e.Type != typ || pod.Name != name || pod.Labels["l"] != label {
		t.Fatalf("got %s %+v, want %s of %s labelled %q", e.Type, e.Object, typ, name, label)
	}
	return pod
}

// TestWatchSelector: an object that leaves a selector is deleted with its last
// matching state, at the version of the change.
func TestWatchSelector(t *testing.T) {
	s := newSetup(t)
	from := s.create(t, "a")
	opts := everything()
	opts.ResourceVersion = from.ResourceVersion
	opts.Predicate = apiserverstorage.SelectionPredicate{
		Label:    labels.SelectorFromSet(labels.Set{"l": "in"}),
		Field:    fields.Everything(),
		GetAttrs: apiserverstorage.DefaultNamespaceScopedAttr,
	}
	w := s.watch(t, opts)
	s.label(t, "a", "elsewhere")
	s.label(t, "a", "in")
	expectEvent(t, w, watch.Added, "a", "in")
	left := s.label(t, "a", "out")
	if gone := expectEvent(t, w, watch.Deleted, "a", "in"); gone.ResourceVersion != left.ResourceVersion {
		t.Errorf("deleted at %s, want the version %s of the change", gone.ResourceVersion, left.ResourceVersion)
	}
}

// TestWatchShard: the shard selector arrives in the predicate.
func TestWatchShard(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.ShardedListAndWatch, true)
	s := newSetup(t)
	inside, outside := "uid-a", "uid-b"
	boundary := "0x" + sharding.HashField(inside)
	if sharding.HexLess(boundary, "0x"+sharding.HashField(outside)) {
		inside, outside = outside, inside
		boundary = "0x" + sharding.HashField(inside)
	}
	opts := everything()
	opts.Predicate.ShardSelector = sharding.NewSelector(sharding.ShardRangeRequirement{
		Key: "object.metadata.uid", Start: boundary, End: "0x10000000000000000",
	})
	w := s.watch(t, opts)
	s.create(t, outside[len("uid-"):])
	s.create(t, inside[len("uid-"):])
	expectEvent(t, w, watch.Added, inside[len("uid-"):], "")
	list := &example.PodList{}
	if err := s.GetList(s.ctx, "/pods", opts, list); err != nil || len(list.Items) != 1 {
		t.Errorf("listed %d of the shard's one (%v)", len(list.Items), err)
	}
}

// countingCodec counts decodings.
type countingCodec struct {
	runtime.Codec
	decodes atomic.Int64
}

func (c *countingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	c.decodes.Add(1)
	return c.Codec.Decode(data, defaults, into)
}

// TestWatchersShareDecoding: many watchers of a resource decode each event
// once, and yet none sees what another does to its copy.
func TestWatchersShareDecoding(t *testing.T) {
	codec := &countingCodec{Codec: testCodec()}
	s := newSetup(t, withCodec(codec))
	const watchers = 20
	opts := everything()
	opts.ResourceVersion = fmt.Sprint(s.db.Version())
	var all []watch.Interface
	for range watchers {
		all = append(all, s.watch(t, opts))
	}
	before := codec.decodes.Load()
	if err := s.Create(s.ctx, "/pods/ns/a", testPod("a"), nil, 0); err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		expectEvent(t, w, watch.Added, "a", "").Labels = map[string]string{"l": "scribbled"}
	}
	if n := codec.decodes.Load() - before; n != 1 {
		t.Errorf("%d watchers decoded %d times", watchers, n)
	}
}

// TestSlowWatcher: a client that takes nothing is ended with 410 when the log
// has moved past it, and holds up nobody.
func TestSlowWatcher(t *testing.T) {
	const window = 64
	s := newSetup(t, func(_ *storagebackend.ConfigForResource, o *store.Options) { o.WatchWindowEvents = window })
	opts := everything()
	opts.ResourceVersion = fmt.Sprint(s.db.Version())
	slow := s.watch(t, opts)
	const enough = 8*window + watchBuffer + 256
	for i := range enough {
		s.create(t, fmt.Sprintf("p%d", i))
	}
	for range enough {
		e := next(t, slow)
		if e.Type == watch.Added {
			continue
		}
		if err := apierrors.FromObject(e.Object); e.Type != watch.Error || !apierrors.IsResourceExpired(err) {
			t.Fatalf("got %s %+v, want 410", e.Type, e.Object)
		}
		if _, open := <-slow.ResultChan(); open {
			t.Error("the watch goes on after its error")
		}
		return
	}
	t.Errorf("the slow watcher got all %d events through a window of %d", enough, window)
}

func TestPeriodicBookmarks(t *testing.T) {
	s := newSetup(t)
	s.bookmarkEvery = 20 * time.Millisecond
	from := s.create(t, "a")
	opts := everything()
	opts.ResourceVersion = from.ResourceVersion
	opts.Predicate.AllowWatchBookmarks = true
	w := s.watch(t, opts)
	// A write elsewhere moves the version on without an event here.
	version := s.increaseVersion(s.ctx, t)
	for {
		e := next(t, w)
		if e.Type != watch.Bookmark {
			t.Fatalf("got %s %+v, want a bookmark", e.Type, e.Object)
		}
		if e.Object.(*example.Pod).ResourceVersion == fmt.Sprint(version) {
			return
		}
	}
}

func TestRequestedProgress(t *testing.T) {
	s := newSetup(t)
	s.progressEvery = time.Hour
	opts := everything()
	opts.ResourceVersion = fmt.Sprint(s.db.Version())
	opts.ProgressNotify = true
	w := s.watch(t, opts)
	for {
		// Asking before the watch listens is lost, by contract: ask again.
		if err := s.RequestWatchProgress(context.Background()); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-w.ResultChan():
			if e.Type != watch.Bookmark {
				t.Fatalf("got %s, want a bookmark", e.Type)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestWatchFromTheFuture: a version never issued here is answered with 410, so
// that the client lists again, instead of waiting for it for years.
func TestWatchFromTheFuture(t *testing.T) {
	s := newSetup(t)
	opts := everything()
	opts.ResourceVersion = fmt.Sprint(s.db.Version() + 1_000_000)
	e := next(t, s.watch(t, opts))
	if err := apierrors.FromObject(e.Object); !apierrors.IsResourceExpired(err) {
		t.Errorf("got %s %+v, want 410", e.Type, e.Object)
	}
}

// TestDestroyEndsWatches and waits for them.
func TestDestroyEndsWatches(t *testing.T) {
	s := newSetup(t)
	w := s.watch(t, everything())
	for i := range 3 * watchBuffer {
		s.create(t, fmt.Sprintf("p%d", i))
	}
	s.Destroy()
	for range 3 * watchBuffer {
		if _, open := <-w.ResultChan(); !open {
			return
		}
	}
	t.Error("the watch is still open")
}
