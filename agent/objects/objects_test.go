package objects

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"shoal/agent/volume"
	"shoal/api/apitest"
	"shoal/test/eventually"
)

// direct asks the API each time, and counts.
type direct struct {
	volume.Source
	kube  kubernetes.Interface
	mu    sync.Mutex
	asked int
}

func (d *direct) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	d.mu.Lock()
	d.asked++
	d.mu.Unlock()
	return d.kube.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

func podWith(uid string, names ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", UID: types.UID(uid)}}
	for _, n := range names {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: n, VolumeSource: v1.VolumeSource{
			ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: n}}}})
	}
	return p
}

func TestCache(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	peer, err := apitest.Start(ctx, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := peer.Stop(); err != nil {
			t.Error(err)
		}
	}()
	maps := peer.Client.CoreV1().ConfigMaps("default")
	put := func(name, text string, immutable bool) {
		t.Helper()
		cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": text}, Immutable: &immutable}
		_, err := maps.Update(ctx, cm, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = maps.Create(ctx, cm, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	source := &direct{kube: peer.Client}
	c := New(peer.Client, source)
	c.maxWatches = 2
	told := make(chan types.UID, 100)
	c.Changed = func(uid types.UID) { told <- uid }
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	defer func() { cancel(); <-done }()

	put("one", "1", false)
	put("fixed", "1", true)
	for i := range 3 {
		c.Set(podWith(fmt.Sprint("u", i), "one", "later", "fixed"))
	}
	state := func(name string) (fresh, watched bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		o := c.objects[key{configMaps, "default", name}]
		return o != nil && o.fresh, o != nil && o.watched
	}
	eventually.True(t, "one and later to be known, and fixed, which needs no watch, once there is a place", func() bool {
		one, _ := state("one")
		later, _ := state("later")
		return one && later
	})
	text := func(name string) string {
		cm, err := c.ConfigMap(ctx, "default", name)
		if apierrors.IsNotFound(err) {
			return "-"
		}
		if err != nil {
			t.Fatal(err)
		}
		return cm.Data["k"]
	}
	if text("one") != "1" || text("later") != "-" || source.asked != 0 {
		t.Errorf("answers %s, %s, after %d questions", text("one"), text("later"), source.asked)
	}
	all := func(what string) {
		t.Helper()
		got := map[types.UID]bool{}
		eventually.True(t, what, func() bool {
			for {
				select {
				case uid := <-told:
					got[uid] = true
				default:
					return len(got) == 3
				}
			}
		})
	}
	put("one", "2", false)
	all("a change")
	put("later", "here", false)
	all("an object that came later")
	eventually.True(t, "the changes to be answered", func() bool { return text("one") == "2" && text("later") == "here" })
	if err := maps.Delete(ctx, "later", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	all("a deletion")
	eventually.True(t, "an object that is gone to be answered for no more", func() bool { return text("later") == "-" })
	if text("fixed") != "1" || source.asked == 0 {
		t.Error("one beyond the watches is asked for")
	}
	// A place among the watches is free again when nobody needs it.
	for i := range 2 {
		c.Drop(types.UID(fmt.Sprint("u", i)))
	}
	ended := podWith("u2", "one", "later", "fixed")
	ended.Status.Phase = v1.PodSucceeded
	c.Set(ended)
	c.Set(podWith("u9", "fixed", "one", "two"))
	eventually.True(t, "the immutable object to leave its place", func() bool {
		fresh, watched := state("fixed")
		_, second := state("two")
		return fresh && !watched && second
	})
}

func TestMissedChange(t *testing.T) {
	c := New(nil, nil)
	told := 0
	c.Changed = func(types.UID) { told++ }
	c.Set(podWith("u", "x"))
	k := key{configMaps, "default", "x"}
	o := c.objects[k]
	version := func(v string) metav1.Object { return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: v}} }
	for i, step := range []struct {
		do   func()
		told int
	}{
		{func() { c.gave(k, "1") }, 0},
		{func() { c.put(o, version("1"), true) }, 0}, // what the pod has
		{func() { c.gave(k, "1") }, 0},
		{func() { c.gave(k, "0") }, 1}, // it asked before, and was answered after
		{func() { c.stale(o); c.gave(k, "2") }, 1},
		{func() { c.put(o, version("3"), true) }, 2},
		{func() { c.put(o, nil, true) }, 3},
		{func() { c.put(o, nil, true) }, 3},
		{func() { c.stale(o); c.put(o, version("4"), false); c.gave(k, "5"); c.gave(k, "5") }, 4}, // polled: no haste
		{func() { c.put(o, version("5"), false) }, 5},
	} {
		if step.do(); told != step.told {
			t.Fatalf("step %d: told %d times, want %d", i, told, step.told)
		}
	}
}
