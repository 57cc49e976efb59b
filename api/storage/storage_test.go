package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/example"
	apiserverstorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"shoal/store"
)

func testPod(name string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
}

func (s *setup) create(t testing.TB, name string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Create(s.ctx, "/pods/ns/"+name, testPod(name), out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *setup) label(t testing.TB, name, value string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	err := s.GuaranteedUpdate(s.ctx, "/pods/ns/"+name, out, false, nil, apiserverstorage.SimpleUpdate(
		func(obj runtime.Object) (runtime.Object, error) {
			pod := obj.(*example.Pod)
			pod.Labels = map[string]string{"l": value}
			return pod, nil
		}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRecordCarriesUID: merging peers tell lives of a name apart by it.
func TestRecordCarriesUID(t *testing.T) {
	s := newSetup(t)
	s.create(t, "a")
	entry, _, err := s.db.Get("/pods/ns/a", store.Latest)
	if err != nil || entry.UID != "uid-a" || entry.CausalLength != 1 {
		t.Errorf("record %+v (%v), want uid-a of causal length 1", entry, err)
	}
}

func TestUnchangedUpdateIsNotWritten(t *testing.T) {
	s := newSetup(t)
	s.create(t, "a")
	first := s.label(t, "a", "x")
	writes := s.db.Stats().Writes
	if again := s.label(t, "a", "x"); again.ResourceVersion != first.ResourceVersion {
		t.Errorf("resource version went from %s to %s", first.ResourceVersion, again.ResourceVersion)
	}
	if now := s.db.Stats().Writes; now != writes {
		t.Errorf("%d writes, %d before", now, writes)
	}
}

func TestObjectTooLarge(t *testing.T) {
	s := newSetup(t)
	pod := testPod("a")
	pod.Annotations = map[string]string{"a": string(bytes.Repeat([]byte("x"), store.MaxValueBytes))}
	err := s.Create(s.ctx, "/pods/ns/a", pod, nil, 0)
	if !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("error %v, want 413", err)
	}
}

func TestFullDiskIsInsufficientStorage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	disk := t.TempDir()
	if err := syscall.Mount("shoal-apistorage-test", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	// More than the file system has: full from the start.
	s := newSetup(t, func(_ *storagebackend.ConfigForResource, o *store.Options) {
		o.Dir, o.MinFreeBytes = filepath.Join(disk, "data"), 128<<20
	})
	err := s.Create(s.ctx, "/pods/ns/a", testPod("a"), nil, 0)
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage {
		t.Errorf("error %v, want status 507", err)
	}
	if err := s.GetList(s.ctx, "/pods/", everything(), &example.PodList{}); err != nil {
		t.Errorf("list on a full disk: %v", err)
	}
}

func everything() apiserverstorage.ListOptions {
	return apiserverstorage.ListOptions{Predicate: apiserverstorage.Everything, Recursive: true}
}

func TestNewRefusesPrefixes(t *testing.T) {
	for _, prefix := range []string{"", "/", "pods"} {
		config := &storagebackend.ConfigForResource{GroupResource: schema.GroupResource{Resource: "pods"}}
		if _, err := New(nil, config, prefix, nil, Cell{}); err == nil {
			t.Errorf("resource prefix %q was accepted", prefix)
		}
	}
}

// TestDecorator goes through the form the generic registry uses, with the
// usual prefix, no transformer, and unstructured objects as custom resources
// have them.
func TestDecorator(t *testing.T) {
	db := newSetup(t).db
	config := &storagebackend.ConfigForResource{
		Config:        storagebackend.Config{Prefix: "/registry", Codec: unstructured.UnstructuredJSONScheme},
		GroupResource: schema.GroupResource{Group: "example.com", Resource: "widgets"},
	}
	newFunc := func() runtime.Object { return widget("") }
	s, destroy, err := Decorator(db, Cell{}, nil)(config, "/example.com/widgets", nil, newFunc, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	key := "/example.com/widgets/ns/a"
	out := widget("")
	if err := s.Create(ctx, key, widget("a"), out, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.Get("/registry"+key, store.Latest); err != nil {
		t.Errorf("not stored under the prefix: %v", err)
	}
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("example.com/v1")
	list.SetKind("WidgetList")
	if err := s.GetList(ctx, "/example.com/widgets/ns", everything(), list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].GetName() != "a" || list.Items[0].GetResourceVersion() != out.GetResourceVersion() {
		t.Errorf("listed %+v, want the widget created at version %s", list.Items, out.GetResourceVersion())
	}
	destroy()
	destroy()
	if err := s.ReadinessCheck(); !errors.Is(err, apiserverstorage.ErrStorageNotReady) {
		t.Errorf("ready after destruction: %v", err)
	}
	if _, err := s.Watch(ctx, "/example.com/widgets", everything()); err == nil {
		t.Error("a watch began after destruction")
	}
}

func widget(name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"size": int64(3)}}}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"})
	u.SetNamespace("ns")
	u.SetName(name)
	return u
}

// TestManyWritersOneObject: read-change-commit loses no update.
func TestManyWritersOneObject(t *testing.T) {
	s := newSetup(t, withClockVersions())
	s.create(t, "a")
	const writers, rounds = 8, 20
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			for range rounds {
				if err := s.countUp(fmt.Sprintf("w%d", w)); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	out := &example.Pod{}
	if err := s.Get(s.ctx, "/pods/ns/a", apiserverstorage.GetOptions{}, out); err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		if got := len(out.Annotations[fmt.Sprintf("w%d", w)]); got != rounds {
			t.Errorf("writer %d: %d updates are there, want %d", w, got, rounds)
		}
	}
}

func (s *setup) countUp(annotation string) error {
	return s.GuaranteedUpdate(s.ctx, "/pods/ns/a", &example.Pod{}, false, nil, apiserverstorage.SimpleUpdate(
		func(obj runtime.Object) (runtime.Object, error) {
			pod := obj.(*example.Pod)
			if pod.Annotations == nil {
				pod.Annotations = make(map[string]string)
			}
			pod.Annotations[annotation] += "x"
			return pod, nil
		}), nil)
}
