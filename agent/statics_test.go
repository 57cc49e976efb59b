package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const manifest = `apiVersion: v1
kind: Pod
metadata: {name: fixed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: box, imagePullPolicy: IfNotPresent, command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"], env: [{name: V, value: one}]}
`

// TestStaticPods walks a manifest through its life, with a restart.
func TestStaticPods(t *testing.T) {
	h := newHost(t, "static1")
	h.stop()
	dir := filepath.Join(t.TempDir(), "manifests")
	h.options.Manifests = dir
	h.start()
	file := filepath.Join(dir, "fixed.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.eventually("the directory", func() bool { _, err := os.Stat(dir); return err == nil })
	write("broken.yaml", "{")
	write("fixed.yaml", manifest)
	pods := peer.Client.CoreV1().Pods("default")
	const name = "fixed-static1"
	mirror := h.running(name)
	hash := mirror.Annotations["kubernetes.io/config.mirror"]
	if hash == "" || mirror.Annotations["kubernetes.io/config.source"] != "file" || len(mirror.OwnerReferences) != 1 || mirror.OwnerReferences[0].Kind != "Node" || string(mirror.UID) == hash {
		t.Errorf("mirror: %+v", mirror.ObjectMeta)
	}
	id := mirror.Status.ContainerStatuses[0].ContainerID

	// Deleting the mirror ends nothing.
	if err := pods.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.eventually("a new mirror", func() bool {
		pod, err := pods.Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && pod.UID != mirror.UID && pod.Status.Phase == v1.PodRunning && pod.Status.ContainerStatuses[0].ContainerID == id
	})

	// As in any Kubernetes, the API takes what others write on a mirror; it is the
	// same one, and the pod goes on. Which file it is of is not for others to say.
	mirror = h.running(name)
	labelled, err := pods.Patch(context.Background(), name, types.MergePatchType, []byte(`{"metadata":{"labels":{"seen":"yes"}}}`), metav1.PatchOptions{})
	if err != nil || labelled.UID != mirror.UID {
		t.Errorf("a label on the mirror: %v, %s instead of %s", err, labelled.UID, mirror.UID)
	}
	claimed := []byte(`{"metadata":{"annotations":{"kubernetes.io/config.mirror":"other"}}}`)
	if _, err := pods.Patch(context.Background(), name, types.MergePatchType, claimed, metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another file's hash on the mirror: %v", err)
	}

	// A restart adopts it, and runs and shows what came meanwhile.
	h.stop()
	write("early.yaml", strings.Replace(manifest, "name: fixed", "name: early", 1))
	h.start()
	h.running("early-static1")
	if err := os.Remove(filepath.Join(dir, "early.yaml")); err != nil {
		t.Fatal(err)
	}
	h.eventually("the pod to be known again", func() bool { return h.agent.pods.get("default", name) != nil })
	if pod := h.running(name); pod.UID != mirror.UID || pod.Labels["seen"] != "yes" || pod.Status.ContainerStatuses[0].ContainerID != id || pod.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("after the restart: %+v", pod.Status.ContainerStatuses[0])
	}

	// A change makes another pod of it, one spoilt by a typing error does not.
	write("fixed.yaml", strings.Replace(manifest, "kind: Pod", "kind: Pot", 1))
	write("fixed.yaml", strings.Replace(manifest, "value: one", "value: two", 1))
	h.eventually("the changed pod", func() bool {
		pod, err := pods.Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && pod.Annotations["kubernetes.io/config.mirror"] != hash && pod.Status.Phase == v1.PodRunning &&
			len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].Ready && pod.Status.ContainerStatuses[0].ContainerID != id
	})
	h.eventually("an event about the broken file", func() bool {
		list, err := peer.Client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=static1,reason=InvalidManifest"})
		return err == nil && slices.ContainsFunc(list.Items, func(e v1.Event) bool { return strings.Contains(e.Message, "broken.yaml") })
	})

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	h.eventually("the pod to go with its file", func() bool {
		_, err := pods.Get(context.Background(), name, metav1.GetOptions{})
		attached, _ := h.network.Attached(context.Background())
		return apierrors.IsNotFound(err) && len(attached) == 0
	})
}

// TestPosingAsStatic: an API pod that says it came from a file is like any other.
func TestPosingAsStatic(t *testing.T) {
	h := newHost(t, "posing1")
	pods, now := peer.Client.CoreV1().Pods("default"), int64(1)
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "posing", Annotations: map[string]string{"kubernetes.io/config.source": "file"}},
		Spec: v1.PodSpec{NodeName: "posing1", TerminationGracePeriodSeconds: &now, Containers: []v1.Container{{
			Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sleep", "3600"},
		}}},
	}
	if _, err := pods.Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.running("posing")
	h.delete("posing")
}

// TestMirrorsFailApart: a mirror that cannot be written keeps no other from it.
func TestMirrorsFailApart(t *testing.T) {
	a := &Agent{kube: peer.Client}
	a.o.NodeName = "nobody" // so that no mirror can have its owner
	s := newStatics(a)
	s.synced = true
	for _, name := range []string{"one", "two", "three"} {
		p := asking("uid-"+name, "1", "1Mi")
		p.Name, p.Namespace = name, "default"
		s.wanted[nameOf(p)], s.running[nameOf(p)] = p, p
	}
	err := s.mirror(t.Context())
	for _, name := range []string{"one", "two", "three"} {
		if err == nil || !strings.Contains(err.Error(), "create mirror pod default/"+name+": ") {
			t.Errorf("%s was not tried: %v", name, err)
		}
	}
}
