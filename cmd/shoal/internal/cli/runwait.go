package cli

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
)

// saidMax bounds the reasons that are shown of one wait.
const saidMax = 20

// tellWaiting says on out why the pod does not run yet, each reason once, until
// it has run or ctx ends. It is for somebody who looks at an idle terminal: what
// it cannot read, it leaves out.
func tellWaiting(ctx context.Context, client kubernetes.Interface, namespace, name string, out io.Writer) {
	watch, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()})
	if err != nil {
		return
	}
	defer watch.Stop()
	said := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case event, open := <-watch.ResultChan():
			pod, ok := event.Object.(*corev1.Pod)
			if !open || !ok || pod.Status.Phase != corev1.PodPending {
				return
			}
			why := waitsFor(pod)
			if why == "" || said[why] || len(said) == saidMax {
				continue
			}
			fmt.Fprintf(out, "pod %q waits: %s\n", name, why)
			if len(said) == 0 { // kubectl's run ends at an interrupt without a word
				fmt.Fprintf(out, "an interrupt now leaves it; remove it then with: shoal delete pod %s -n %s\n", name, namespace)
			}
			said[why] = true
		}
	}
}

// waitsFor is why a pod does not run, as its status has it; empty while it is
// only on its way.
func waitsFor(pod *corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return fmt.Sprintf("%s: %s", w.Reason, w.Message)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("%s: %s", c.Reason, c.Message)
		}
	}
	return ""
}
