package services

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name string, status corev1.ConditionStatus, reason string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: reason}},
	}}
}

func TestLiveness(t *testing.T) {
	well := func(name string) *corev1.Node { return node(name, corev1.ConditionTrue, "KubeletReady") }
	silent := func(name string) *corev1.Node { return node(name, corev1.ConditionUnknown, "NodeStatusUnknown") }
	l := newLiveness()
	for _, step := range []struct {
		what    string
		alive   []string
		nodes   []*corev1.Node
		changed string
		failed  string
	}{
		{"it has met nobody yet", []string{"a"}, []*corev1.Node{well("a"), well("b"), well("c")}, "[]", "[]"},
		{"of one that it never met the Node tells", []string{"a"}, []*corev1.Node{well("a"), well("b"), silent("c")}, "[c]", "[c]"},
		{"another joins", []string{"a", "b"}, []*corev1.Node{well("a"), well("b"), silent("c")}, "[]", "[c]"},
		{"who is alive is believed before its Node", []string{"a", "b", "c"}, []*corev1.Node{well("a"), well("b"), silent("c")}, "[c]", "[]"},
		{"one fails, and no Node says so yet", []string{"a", "c"}, []*corev1.Node{well("a"), well("b"), well("c")}, "[b]", "[b]"},
		{"nothing has changed", []string{"a", "c"}, []*corev1.Node{well("a"), silent("b"), well("c")}, "[]", "[b]"},
		{"its Node is deleted", []string{"a", "c"}, []*corev1.Node{well("a"), well("c")}, "[]", "[b]"},
		{"one comes back, another fails", []string{"a", "b"}, []*corev1.Node{well("a"), silent("b"), well("c")}, "[b c]", "[c]"},
		{"it took leave", []string{"a"}, []*corev1.Node{well("a"), node("b", corev1.ConditionFalse, "NodeLeft")}, "[b]", "[b c]"},
		{"not ready is not failed", []string{"a", "b", "c"}, []*corev1.Node{well("a"), node("b", corev1.ConditionFalse, "KubeletNotReady")}, "[b c]", "[]"},
	} {
		alive := map[string]bool{}
		for _, name := range step.alive {
			alive[name] = true
		}
		if got := fmt.Sprint(l.update(alive, step.nodes)); got != step.changed {
			t.Errorf("%s: changed %s, want %s", step.what, got, step.changed)
		}
		failed := []string{}
		for _, name := range []string{"a", "b", "c"} {
			if l.Failed(name) {
				failed = append(failed, name)
			}
		}
		if got := fmt.Sprint(failed); got != step.failed {
			t.Errorf("%s: failed are %s, want %s", step.what, got, step.failed)
		}
	}
}

func TestLivenessIsBounded(t *testing.T) {
	l := newLiveness()
	l.update(map[string]bool{"a": true, "b": true}, nil)
	many := map[string]bool{"a": true}
	for i := range maxMet {
		many[fmt.Sprint("host-", i)] = true
	}
	l.update(many, nil)
	l.update(map[string]bool{"a": true}, []*corev1.Node{node("b", corev1.ConditionTrue, "")})
	if len(l.met) > 2 {
		t.Errorf("%d hosts are remembered of two that there are", len(l.met))
	}
}
