package agent

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/agent/internal/testbed"
	"shoal/agent/shutdown"
)

// TestShutdown: the machine goes down while pods run, one of them deaf.
func TestShutdown(t *testing.T) {
	logind := testbed.StartLogind(t, 2*time.Minute)
	h := newHost(t, "closing")
	h.stop()
	h.options.ShutdownBus, h.options.Shutdown = logind.Address, shutdown.Periods(4*time.Second, 2*time.Second)
	h.start()
	h.eventually("a lock", func() bool { _, held := logind.Locks(); return held == 1 })
	h.create("kind", sleeper)
	h.create("deaf", `trap '' TERM; while :; do sleep 1; done`)
	h.create("done", "true")
	h.running("kind")
	h.running("deaf")
	get := func(name string) *v1.Pod {
		pod, err := peer.Client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}

	logind.Prepare(t, true)
	h.eventually("the pods to end", func() bool {
		return get("kind").Status.Phase == v1.PodFailed && get("deaf").Status.Phase == v1.PodFailed
	})
	for _, name := range []string{"kind", "deaf"} {
		s := get(name).Status
		if s.Reason != "Terminated" || s.Message != "Pod was terminated in response to imminent node shutdown." {
			t.Errorf("%s: %s, %s", name, s.Reason, s.Message)
		}
		found := false
		for _, c := range s.Conditions {
			found = found || c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonTerminationByKubelet
		}
		if !found {
			t.Errorf("%s: conditions %+v", name, s.Conditions)
		}
	}
	h.eventually("the machine to be let go", func() bool { _, held := logind.Locks(); return held == 0 })
	for _, c := range h.node(v1.ConditionFalse).Status.Conditions {
		if c.Type == v1.NodeReady && c.Message != "node is shutting down" {
			t.Errorf("node: %+v", c)
		}
	}
	h.eventually("events about the node", func() bool {
		told := map[string]bool{}
		list, err := peer.Client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,involvedObject.name=closing"})
		for _, e := range list.Items {
			told[e.Reason] = true
		}
		return err == nil && told["Starting"] && told["NodeReady"] && told["NodeHasSufficientMemory"] && told["Shutdown"] && told["NodeNotReady"]
	})
	h.create("late", sleeper)
	h.eventually("a late pod to be refused", func() bool {
		s := get("late").Status
		return s.Phase == v1.PodFailed && s.Reason == "NodeShutdown" && strings.Contains(s.Message, "node is shutting down")
	})

	logind.Prepare(t, false)
	h.node(v1.ConditionTrue)
	h.eventually("a lock again", func() bool { _, held := logind.Locks(); return held == 1 })
	h.create("after", sleeper)
	h.running("after")
	for _, name := range []string{"after", "late", "kind", "deaf", "done"} {
		h.delete(name)
	}
}
