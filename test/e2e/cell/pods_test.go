package cell

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// deployment runs the hello server. Its pods end at once, so that tests do not
// wait for them.
func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	now := int64(0)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: &now, Containers: []corev1.Container{hello()}},
			},
		},
	}
}

func hello() corev1.Container {
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	return corev1.Container{
		Name: "hello", Image: image, ImagePullPolicy: corev1.PullNever,
		Env: []corev1.EnvVar{
			{Name: "POD_NAME", ValueFrom: field("metadata.name")},
			{Name: "NODE_NAME", ValueFrom: field("spec.nodeName")},
		},
	}
}

// runs waits until a peer says that exactly n pods of an app exist and are
// Ready on hosts that are not any of those, and returns them.
func (p *peer) runs(t *testing.T, ns, app string, n int, not ...*peer) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	took := eventually(t, fmt.Sprintf("%d pods of %s, says %s", n, app, p.name), func() error {
		list, err := p.kube.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return err
		}
		pods = list.Items
		var states []string
		good := 0
		for i := range pods {
			away := slices.ContainsFunc(not, func(q *peer) bool { return pods[i].Spec.NodeName == q.name })
			if ready(&pods[i]) && !away {
				good++
			}
			states = append(states, fmt.Sprintf("%s on %s: %s, ready %v, away %v, deleted %v", pods[i].Name, pods[i].Spec.NodeName, pods[i].Status.Phase, ready(&pods[i]), away, pods[i].DeletionTimestamp != nil))
		}
		if len(pods) != n || good != n {
			return fmt.Errorf("%d pods, %d good:\n%s", len(pods), good, strings.Join(states, "\n"))
		}
		return nil
	})
	t.Logf("%d pods of %s ready after %s", n, app, took)
	return pods
}

func ready(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// containers lists the running containers of a host by containerd's own word.
func (p *peer) containers(t *testing.T) []string {
	t.Helper()
	out, err := cell.Output(t.Context(), p.number, "ctr", "--namespace", p.name, "tasks", "list")
	ok(t, err)
	var running []string
	for line := range strings.Lines(out) {
		// TASK PID STATUS
		if words := strings.Fields(line); len(words) == 3 && words[2] == "RUNNING" {
			running = append(running, words[0])
		}
	}
	return running
}

// nothingTwice waits until each of the pods runs in exactly one container, on
// the host it is bound to, and no other container of the namespace runs.
func nothingTwice(t *testing.T, pods []corev1.Pod) {
	t.Helper()
	eventually(t, "each pod runs once", func() error {
		on := map[string][]string{} // hosts by container
		total := 0
		for _, p := range all() {
			for _, id := range p.containers(t) {
				on[id] = append(on[id], p.name)
				total++
			}
		}
		for _, pod := range pods {
			status := pod.Status.ContainerStatuses[0]
			id := strings.TrimPrefix(status.ContainerID, "containerd://")
			if hosts := on[id]; len(hosts) != 1 || hosts[0] != pod.Spec.NodeName {
				return fmt.Errorf("%s is bound to %s, and its container %s runs on %v of %v", pod.Name, pod.Spec.NodeName, id, hosts, on)
			}
		}
		if total != len(pods) {
			return fmt.Errorf("%d containers run for %d pods: %v", total, len(pods), on)
		}
		return nil
	})
}
