package lab

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"shoal/cmd/shoal/lab"
)

// TestStartFlags gives a lab's daemons flags of `shoal start`, for each start
// and for one.
func TestStartFlags(t *testing.T) {
	down(t)
	must(t, "up", "--nodes", "1", "--start-flag=--reserved=cpu=100m", "--start-flag=--pod-max-pids=321")
	t.Cleanup(func() { down(t) })
	l, err := lab.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	reserves := func(milli int64) {
		t.Helper()
		config, err := l.Config(1)
		if err != nil {
			t.Fatal(err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		node, err := client.CoreV1().Nodes().Get(t.Context(), "lab-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := node.Status.Capacity.Cpu().MilliValue() - node.Status.Allocatable.Cpu().MilliValue(); got != milli {
			t.Errorf("the peer keeps %dm of its CPUs, want %dm", got, milli)
		}
	}
	reserves(100)
	must(t, "kill", "1")
	must(t, "start", "1", "--start-flag=--reserved=cpu=200m")
	reserves(200)
	must(t, "kill", "1")

	result := command(t, "start", "1", "--start-flag=--no-such-flag")
	if result.Code == 0 || !strings.Contains(result.Stderr, "unknown flag --no-such-flag") || !strings.Contains(result.Stderr, "lab start 1 --start-flag=") {
		t.Errorf("a flag that does not exist: %+v", result)
	}
	if result := command(t, "start", "1", "--start-flag=--data-dir=/tmp"); result.Code == 0 || !strings.Contains(result.Stderr, "of its own") {
		t.Errorf("a flag that is the lab's: %+v", result)
	}
	must(t, "start", "1")
	reserves(100)
}
