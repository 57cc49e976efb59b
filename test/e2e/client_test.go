package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// TestInformer keeps an informer running over a daemon's death: its store must
// end equal to what the API lists.
func TestInformer(t *testing.T) {
	ns := newNamespace(t)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(ns))
	informer := factory.Core().V1().ConfigMaps().Informer()
	var mu sync.Mutex
	seen := map[string]int{} // guarded by mu: events by kind
	count := func(kind string) {
		mu.Lock()
		defer mu.Unlock()
		seen[kind]++
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { count("add") },
		UpdateFunc: func(any, any) { count("update") },
		DeleteFunc: func(any) { count("delete") },
	}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	t.Cleanup(func() { close(stop); factory.Shutdown() })
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	maps := client.CoreV1().ConfigMaps(ns)
	change := func(round string) {
		for i := range 5 {
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", round, i)}, Data: map[string]string{"round": round}}
			if _, err := maps.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := maps.Delete(t.Context(), round+"-0", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	equal := func() error {
		list, err := maps.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		stored := informer.GetStore().List()
		if len(stored) != len(list.Items) {
			return fmt.Errorf("the informer holds %d, the API %d", len(stored), len(list.Items))
		}
		for _, item := range list.Items {
			held, ok, _ := informer.GetStore().GetByKey(ns + "/" + item.Name)
			if !ok || held.(*corev1.ConfigMap).ResourceVersion != item.ResourceVersion {
				return fmt.Errorf("%s differs", item.Name)
			}
		}
		return nil
	}
	change("before")
	eventually(t, "informer up to date", equal)
	restartDaemon(t, daemon.Kill)
	change("after")
	eventually(t, "informer up to date after a restart", equal)
	mu.Lock()
	defer mu.Unlock()
	if seen["add"] < 10 || seen["delete"] < 2 {
		t.Errorf("events seen: %v", seen)
	}
}

// TestPagedList reads a list in pages while it changes: all pages show the
// revision of the first.
func TestPagedList(t *testing.T) {
	ns := newNamespace(t)
	maps := client.CoreV1().ConfigMaps(ns)
	create := func(name string) {
		t.Helper()
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		create(fmt.Sprintf("item-%02d", i))
	}
	first, err := maps.List(t.Context(), metav1.ListOptions{Limit: 4})
	if err != nil {
		t.Fatal(err)
	}
	create("item-99")
	names := len(first.Items)
	for token := first.Continue; token != ""; {
		page, err := maps.List(t.Context(), metav1.ListOptions{Limit: 4, Continue: token})
		if err != nil {
			t.Fatal(err)
		}
		if page.ResourceVersion != first.ResourceVersion {
			t.Errorf("a page has revision %s, the first %s", page.ResourceVersion, first.ResourceVersion)
		}
		names += len(page.Items)
		token = page.Continue
	}
	if names != 10 && names != 11 { // the namespace's own root CA map may be among them
		t.Errorf("the pages hold %d objects", names)
	}
}

const gadgetCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.test.example}
spec:
  group: test.example
  scope: Namespaced
  names: {plural: gadgets, singular: gadget, kind: Gadget, shortNames: [gd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties: {size: {type: integer, minimum: 1}}
          status:
            type: object
            properties: {size: {type: integer}}
`

const gadget = `
apiVersion: test.example/v1
kind: Gadget
metadata: {name: one}
spec: {size: %s}
`

func TestCustomResource(t *testing.T) {
	ns := newNamespace(t)
	kubectlInput(t, gadgetCRD, "apply", "--filename", "-")
	t.Cleanup(func() {
		if result := afterTest("delete", "crd", "gadgets.test.example"); result.Err != nil {
			t.Error(result.Err)
		}
	})
	kubectl(t, "wait", "--for", "condition=Established", "crd/gadgets.test.example", "--timeout", "240s")
	apply(t, ns, fmt.Sprintf(gadget, "3"))
	mentions(t, kubectl(t, "get", "gd", "--namespace", ns), "NAME", "SIZE", "one", "3")
	mentions(t, kubectlFails(t, fmt.Sprintf(gadget, "0"), "apply", "--namespace", ns, "--filename", "-"), "spec.size", "greater than or equal to 1")
	kubectl(t, "scale", "gadget", "one", "--namespace", ns, "--replicas", "5")
	mentions(t, kubectl(t, "explain", "gadget.spec"), "size")

	gadgets := dynamic.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{Group: "test.example", Version: "v1", Resource: "gadgets"}).Namespace(ns)
	object, err := gadgets.Get(t.Context(), "one", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if size, _, _ := unstructured.NestedInt64(object.Object, "spec", "size"); size != 5 {
		t.Errorf("size is %d after scaling", size)
	}
	stale := object.DeepCopy()
	stale.SetResourceVersion("1")
	if _, err := gadgets.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update with an old resourceVersion gives %v, not a conflict", err)
	}
	restartDaemon(t, daemon.Terminate)
	eventually(t, "custom resource after a restart", func() error {
		_, err := gadgets.Get(t.Context(), "one", metav1.GetOptions{})
		return err
	})
}

// TestServerSideApply checks field ownership, which kubectl apply --server-side
// and most operators rely on.
func TestServerSideApply(t *testing.T) {
	ns := newNamespace(t)
	manifest := func(value string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned}\ndata: {key: " + value + "}\n"
	}
	serverSide := []string{"apply", "--namespace", ns, "--server-side", "--filename", "-", "--field-manager"}
	kubectlInput(t, manifest("a"), append(serverSide, "first")...)
	mentions(t, kubectlFails(t, manifest("b"), append(serverSide, "second")...), "conflict", "first")
	kubectlInput(t, manifest("b"), append(serverSide, "second", "--force-conflicts")...)
	object, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "owned", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owners, _ := json.Marshal(object.ManagedFields)
	if object.Data["key"] != "b" || !strings.Contains(string(owners), `"manager":"second"`) {
		t.Errorf("after a forced apply: %v, owners %s", object.Data, owners)
	}
}
