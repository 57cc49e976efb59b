package cli

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestTellWaiting: each reason is told once, in order, until the pod runs, and how
// to remove what an interrupt leaves.
func TestTellWaiting(t *testing.T) {
	event := func(phase, reason string) string {
		return `{"type":"MODIFIED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"box"},"status":{"phase":"` + phase +
			`","containerStatuses":[{"name":"box","state":{"waiting":{"reason":"` + reason + `","message":"no such image"}}}]}}}` + "\n"
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); r.URL.Path != "/api/v1/namespaces/ns/pods" || q.Get("watch") == "" || q.Get("fieldSelector") != "metadata.name=box" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		for _, reason := range []string{"ContainerCreating", "ErrImagePull", "ImagePullBackOff", "ErrImagePull"} {
			_, _ = w.Write([]byte(event("Pending", reason)))
		}
		_, _ = w.Write([]byte(event("Running", "ContainerCreating")))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	tellWaiting(t.Context(), client, "ns", "box", &out) // it ends although the watch goes on
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{`pod "box" waits: ErrImagePull: no such image`, "an interrupt now leaves it; remove it then with: shoal delete pod box -n ns", `pod "box" waits: ImagePullBackOff: no such image`}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("told:\n%s", out.String())
	}
}

func TestWaitsFor(t *testing.T) {
	waiting := func(reason, message string) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
		}}}}
	}
	unplaced := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no room"},
	}}}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"new":        {&corev1.Pod{}, ""},
		"on the way": {waiting("ContainerCreating", ""), ""},
		"no image":   {waiting("ErrImagePull", "not found"), "ErrImagePull: not found"},
		"no place":   {unplaced, "Unschedulable: no room"},
	} {
		if got := waitsFor(test.pod); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
