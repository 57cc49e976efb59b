package cell

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// keeper is a deployment of one pod that notes in a volume where it ran.
func keeper(claim string) *appsv1.Deployment {
	d := deployment("keeper", 1)
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	pod := &d.Spec.Template.Spec
	pod.Containers[0].Command = []string{"sh", "-ec", "echo $NODE_NAME >> /data/hosts; exec sleep 100000"}
	pod.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}}}
	return d
}

// TestAPodComesBackToTheHostOfItsData, and waits for it while it is down.
func TestAPodComesBackToTheHostOfItsData(t *testing.T) {
	whole(t)
	ns := space(t, peers[1])
	_, err := peers[1].kube.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}, metav1.CreateOptions{})
	ok(t, err)
	_, err = peers[2].kube.AppsV1().Deployments(ns).Create(t.Context(), keeper("data"), metav1.CreateOptions{})
	ok(t, err)
	first := peers[1].runs(t, ns, "keeper", 1)[0]
	var home *peer
	for _, p := range all() {
		if p.name == first.Spec.NodeName {
			home = p
		}
	}
	from := others(home)[0]

	now := int64(0)
	remove := func(pod string) {
		t.Helper()
		ok(t, from.kube.CoreV1().Pods(ns).Delete(t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: &now}))
		eventually(t, "pod "+pod+" replaced", func() error {
			list, err := from.kube.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=keeper"})
			if err == nil && (len(list.Items) != 1 || list.Items[0].Name == pod) {
				err = fmt.Errorf("%d pods", len(list.Items))
			}
			return err
		})
	}
	remove(first.Name)
	second := from.runs(t, ns, "keeper", 1, others(home)...)[0]

	ok(t, cell.Kill(within(t), home.number))
	eventually(t, "its node is known to be down", func() error {
		node, err := from.kube.CoreV1().Nodes().Get(t.Context(), home.name, metav1.GetOptions{})
		if err == nil && readiness(node) == corev1.ConditionTrue {
			err = fmt.Errorf("it is Ready")
		}
		return err
	})
	remove(second.Name)
	eventually(t, "the pod waits and says for what", func() error {
		out := from.kubectl(t, "", "describe", "pod", "-n", ns, "-l", "app=keeper")
		if !strings.Contains(out, "1 node(s) were not ready") || !strings.Contains(out, "node(s) didn't match PersistentVolume's node affinity") {
			return fmt.Errorf("it says:\n%s", out)
		}
		return nil
	})

	ok(t, cell.Start(within(t), home.number))
	third := from.runs(t, ns, "keeper", 1, others(home)...)[0]
	out, err := from.exec(t, ns, third.Name, "cat", "/data/hosts")
	ok(t, err)
	if want := strings.Repeat(home.name+"\n", 3); out != want {
		t.Errorf("the volume has %q, want %q", out, want)
	}
	whole(t)
}
