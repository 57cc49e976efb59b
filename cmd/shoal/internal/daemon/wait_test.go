//go:build linux

package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestAStartWithoutPodNetwork goes on and says why; one without a container
// runtime does not.
func TestAStartWithoutPodNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		message string
		goesOn  bool
	}{
		"no network": {"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: no networks in /x", true},
		"no runtime": {"container runtime is down: connection refused", false},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(&corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "host1"},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
					{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady", Message: test.message},
				}},
			})
			ctx := t.Context()
			if !test.goesOn {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			var out bytes.Buffer
			p := &peer{config: Config{Name: "host1"}, progress: newProgress(&out, slog.New(slog.DiscardHandler), false)}
			err := p.waitNode(ctx, client)
			if (err == nil) != test.goesOn {
				t.Errorf("goes on %v: %v", test.goesOn, err)
			}
			if strings.Contains(out.String(), test.message) != test.goesOn {
				t.Errorf("it says %q", out.String())
			}
		})
	}
}
