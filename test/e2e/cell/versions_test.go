package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// TestSeenEverywhere writes on each peer in turn and reads on all.
func TestSeenEverywhere(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	watches := map[*peer]watch.Interface{}
	for _, p := range all() {
		list, err := p.kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		ok(t, err)
		w, err := p.stream.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		ok(t, err)
		defer w.Stop()
		watches[p] = w
	}
	for _, writer := range all() {
		name := "by-" + writer.name
		_, err := writer.kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(name, map[string]string{"writer": writer.name}), metav1.CreateOptions{})
		ok(t, err)
		for _, p := range all() {
			eventually(t, name+" on "+p.name, func() error {
				_, err := p.kube.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
				return err
			})
			list, err := p.kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
			ok(t, err)
			if len(list.Items) != 1 || list.Items[0].Data["writer"] != writer.name {
				t.Errorf("%s lists %v", p.name, list.Items)
			}
		}
	}
	for _, p := range all() {
		for _, writer := range all() {
			hears(t, p, watches[p], watch.Added, "by-"+writer.name)
		}
	}
	ok(t, peers[3].kube.CoreV1().ConfigMaps(ns).Delete(t.Context(), "by-lab-1", metav1.DeleteOptions{}))
	for _, p := range all() {
		hears(t, p, watches[p], watch.Deleted, "by-lab-1")
	}
}

// hears reads a watch up to an event.
func hears(t *testing.T, p *peer, w watch.Interface, kind watch.EventType, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), settleWithin, errors.New("it did not come in time"))
	defer cancel()
	for {
		select {
		case event, open := <-w.ResultChan():
			if !open {
				t.Fatalf("the watch of %s ended before %s of %s", p.name, kind, name)
			}
			if object, is := event.Object.(*corev1.ConfigMap); is && event.Type == kind && object.Name == name {
				return
			}
		case <-ctx.Done():
			t.Fatalf("%s of %s on %s: %v", kind, name, p.name, context.Cause(ctx))
		}
	}
}

// TestInformersConverge runs an informer on each peer while all are written to.
func TestInformersConverge(t *testing.T) {
	whole(t)
	ns := space(t, peers[2])
	const each = 20
	var stores []cache.Store
	for _, p := range all() {
		factory := informers.NewSharedInformerFactoryWithOptions(p.stream, 0, informers.WithNamespace(ns))
		informer := factory.Core().V1().ConfigMaps().Informer()
		stop := make(chan struct{})
		factory.Start(stop)
		t.Cleanup(func() { close(stop); factory.Shutdown() })
		if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
			t.Fatal("an informer did not sync")
		}
		stores = append(stores, informer.GetStore())
	}
	var writers sync.WaitGroup
	for _, p := range all() {
		writers.Go(func() {
			maps := p.kube.CoreV1().ConfigMaps(ns)
			for i := range each {
				name := fmt.Sprintf("%s-%d", p.name, i)
				if _, err := maps.Create(t.Context(), configMap(name, nil), metav1.CreateOptions{}); err != nil {
					t.Errorf("create on %s: %v", p.name, err)
					return
				}
				if i%4 == 0 {
					if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
						t.Errorf("delete on %s: %v", p.name, err)
					}
				}
			}
		})
	}
	writers.Wait()
	const left = nodes*each*3/4 + 1 // and kube-root-ca.crt
	for i, store := range stores {
		eventually(t, "the informer of "+peers[i+1].name, func() error {
			if n := len(store.ListKeys()); n != left {
				return fmt.Errorf("it holds %d, want %d", n, left)
			}
			return sameUIDs(stores[0], store)
		})
	}
}

func sameUIDs(a, b cache.Store) error {
	for _, object := range a.List() {
		want := object.(*corev1.ConfigMap)
		got, there, err := b.Get(want)
		if err != nil {
			return err
		}
		if !there || got.(*corev1.ConfigMap).UID != want.UID {
			return fmt.Errorf("%s differs", want.Name)
		}
	}
	return nil
}

// TestKubectlElsewhere applies on one peer and reads on another at once: a
// client's own write is visible to it on the next peer it asks by version.
func TestKubectlElsewhere(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	const manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: %q}\n"
	peers[2].kubectl(t, fmt.Sprintf(manifest, "one"), "apply", "--server-side", "-n", ns, "-f", "-")
	eventually(t, "kubectl get on another peer", func() error {
		out := peers[4].runKubectl(t, "", "get", "configmap", "applied", "-n", ns, "-o", "jsonpath={.data.a}")
		if out.Err == nil && out.Stdout != "one" {
			return fmt.Errorf("it is %q", out.Stdout)
		}
		return out.Err
	})
	peers[5].kubectl(t, fmt.Sprintf(manifest, "two"), "apply", "--server-side", "-n", ns, "-f", "-")
	eventually(t, "kubectl get after an apply on a third", func() error {
		out := peers[2].kubectl(t, "", "get", "configmap", "applied", "-n", ns, "-o", "jsonpath={.data.a}")
		if out != "two" {
			return fmt.Errorf("it is %q", out)
		}
		return nil
	})
}

// TestForeignVersions uses a version of one peer on another.
func TestForeignVersions(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	t.Run("watch", func(t *testing.T) { foreignWatch(t, ns) })
	t.Run("list", func(t *testing.T) { readYourWrites(t, ns) })
	t.Run("update", func(t *testing.T) { foreignUpdate(t, ns) })
	t.Run("delete", func(t *testing.T) { foreignDelete(t, ns) })
	t.Run("continue", func(t *testing.T) { foreignContinue(t, ns) })
}

// foreignWatch: a version of another peer ends a watch with 410, and client-go's
// reflector recovers from that when its connection moves to another peer.
func foreignWatch(t *testing.T, ns string) {
	list, err := peers[1].kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	ok(t, err)
	w, err := peers[2].stream.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err == nil {
		event := <-w.ResultChan()
		w.Stop()
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch from a version of another peer: %v", err)
	}

	var at atomic.Int32
	at.Store(1)
	var mu sync.Mutex
	var open watch.Interface // guarded by mu
	informer := cache.NewSharedInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return peers[at.Load()].stream.CoreV1().ConfigMaps(ns).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := peers[at.Load()].stream.CoreV1().ConfigMaps(ns).Watch(ctx, o)
			mu.Lock()
			defer mu.Unlock()
			open = w
			return w, err
		},
	}, &corev1.ConfigMap{}, 0)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { informer.RunWithContext(ctx) })
	defer running.Wait()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	for n := 2; n <= nodes; n++ {
		at.Store(int32(n))
		mu.Lock()
		open.Stop() // as if the connection broke
		mu.Unlock()
		name := fmt.Sprintf("moved-to-%d", n)
		_, err := peers[n].kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(name, nil), metav1.CreateOptions{})
		ok(t, err)
		eventually(t, "an informer that moved sees "+name, func() error {
			if _, there, _ := informer.GetStore().GetByKey(ns + "/" + name); !there {
				return errors.New("it does not")
			}
			return nil
		})
	}
}

// readYourWrites: a list "not older than" a version of another peer waits for
// what that peer had.
func readYourWrites(t *testing.T, ns string) {
	const rounds = 40
	for i := range rounds {
		writer, reader := peers[1+i%nodes], peers[1+(i*2+1)%nodes]
		name := fmt.Sprintf("own-%d", i)
		written, err := writer.kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(name, nil), metav1.CreateOptions{})
		ok(t, err)
		for _, p := range []*peer{reader, writer} {
			var list *corev1.ConfigMapList
			// As upstream does, a peer that cannot catch up in time says so
			// and is asked again; what it answers must hold the write.
			eventually(t, "list on "+p.name, func() (err error) {
				list, err = p.kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{
					ResourceVersion: written.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
				})
				return err
			})
			if !names(list)[name] {
				t.Errorf("%s wrote %s at %s, and %s does not list it", writer.name, name, written.ResourceVersion, p.name)
			}
			_, err := p.kube.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{ResourceVersion: written.ResourceVersion})
			if err != nil {
				t.Errorf("get %s on %s: %v", name, p.name, err)
			}
		}
	}
}

func names(list *corev1.ConfigMapList) map[string]bool {
	found := map[string]bool{}
	for _, item := range list.Items {
		found[item.Name] = true
	}
	return found
}

// foreignUpdate: the precondition is about what the client saw, wherever that was.
func foreignUpdate(t *testing.T, ns string) {
	maps := func(n int) interface {
		Get(context.Context, string, metav1.GetOptions) (*corev1.ConfigMap, error)
		Update(context.Context, *corev1.ConfigMap, metav1.UpdateOptions) (*corev1.ConfigMap, error)
	} {
		return peers[n].kube.CoreV1().ConfigMaps(ns)
	}
	_, err := peers[1].kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("updated", nil), metav1.CreateOptions{})
	ok(t, err)
	for _, p := range all() {
		reach(t, p, ns, "updated", "")
	}
	seen, err := maps(1).Get(t.Context(), "updated", metav1.GetOptions{})
	ok(t, err)
	seen.Data = map[string]string{"by": "2"}
	second, err := maps(2).Update(t.Context(), seen, metav1.UpdateOptions{})
	if err != nil {
		t.Fatalf("update with another peer's version, nothing changed: %v", err)
	}
	reach(t, peers[3], ns, "updated", "2")
	seen.Data = map[string]string{"by": "3"}
	if _, err := maps(3).Update(t.Context(), seen, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update with another peer's stale version: %v", err)
	}
	second.Data = map[string]string{"by": "4"}
	reach(t, peers[4], ns, "updated", "2")
	if _, err := maps(4).Update(t.Context(), second, metav1.UpdateOptions{}); err != nil {
		t.Errorf("update with the version an update on another peer returned: %v", err)
	}
	reach(t, peers[2], ns, "updated", "4")
	if _, err := maps(2).Update(t.Context(), second, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update with a peer's own stale version after another's write: %v", err)
	}
}

// reach waits until a peer has a config map with what field "by" says.
func reach(t *testing.T, p *peer, ns, name, by string) {
	t.Helper()
	eventually(t, name+" on "+p.name, func() error {
		object, err := p.kube.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && object.Data["by"] != by {
			err = fmt.Errorf("by %q, want %q", object.Data["by"], by)
		}
		return err
	})
}

func foreignDelete(t *testing.T, ns string) {
	made, err := peers[1].kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("deleted", nil), metav1.CreateOptions{})
	ok(t, err)
	reach(t, peers[2], ns, "deleted", "")
	made.Data = map[string]string{"by": "1"}
	changed, err := peers[1].kube.CoreV1().ConfigMaps(ns).Update(t.Context(), made, metav1.UpdateOptions{})
	ok(t, err)
	reach(t, peers[2], ns, "deleted", "1")
	remove := func(pre metav1.Preconditions) error {
		return peers[2].kube.CoreV1().ConfigMaps(ns).Delete(t.Context(), "deleted", metav1.DeleteOptions{Preconditions: &pre})
	}
	other := made.UID + "x"
	if err := remove(metav1.Preconditions{UID: &other}); !apierrors.IsConflict(err) {
		t.Errorf("delete of another uid: %v", err)
	}
	if err := remove(metav1.Preconditions{ResourceVersion: &made.ResourceVersion}); !apierrors.IsConflict(err) {
		t.Errorf("delete at a stale version of another peer: %v", err)
	}
	if err := remove(metav1.Preconditions{UID: &made.UID, ResourceVersion: &changed.ResourceVersion}); err != nil {
		t.Errorf("delete at the present version of another peer: %v", err)
	}
}

// foreignContinue: a list's next page is asked of another peer, which gives a
// token with which the rest can be had as of now.
func foreignContinue(t *testing.T, ns string) {
	for i := range 6 {
		_, err := peers[1].kube.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(fmt.Sprintf("page-%d", i), nil), metav1.CreateOptions{})
		ok(t, err)
	}
	reach(t, peers[2], ns, "page-5", "")
	first, err := peers[1].kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{Limit: 2})
	ok(t, err)
	_, err = peers[2].kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{Limit: 500, Continue: first.Continue})
	if !apierrors.IsResourceExpired(err) {
		t.Fatalf("a continue token of another peer: %v", err)
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Continue == "" {
		t.Fatalf("no token to go on with: %v", err)
	}
	rest, err := peers[2].kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{Limit: 500, Continue: status.Status().Continue})
	ok(t, err)
	whole, err := peers[2].kube.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	ok(t, err)
	if len(first.Items)+len(rest.Items) != len(whole.Items) {
		t.Errorf("pages of %d and %d, and %d in all", len(first.Items), len(rest.Items), len(whole.Items))
	}
}

// patch sets one field of a config map's data.
func (p *peer) patch(ctx context.Context, ns, name, field, value string) error {
	body, err := json.Marshal(map[string]any{"data": map[string]string{field: value}})
	if err != nil {
		return err
	}
	_, err = p.kube.CoreV1().ConfigMaps(ns).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{})
	return err
}
