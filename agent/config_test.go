package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// configured makes n pods with a config map as a volume, and gives the host's
// paths of its one file in each, which is the inode that containers see.
func (h *host) configured(n int) []string {
	h.t.Helper()
	yes := true
	var pods []*v1.Pod
	for i := range n {
		pod, err := peer.Client.CoreV1().Pods("default").Create(context.Background(), &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("conf-%d", i)},
			Spec: v1.PodSpec{
				NodeName: h.name, TerminationGracePeriodSeconds: new(int64),
				Containers: []v1.Container{{
					Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", sleeper},
					VolumeMounts: []v1.VolumeMount{{Name: "conf", MountPath: "/conf"}},
				}},
				Volumes: []v1.Volume{{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
					LocalObjectReference: v1.LocalObjectReference{Name: "shared-conf"}, Optional: &yes}}}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			h.t.Fatal(err)
		}
		pods = append(pods, pod)
	}
	var files []string
	for _, p := range pods {
		h.running(p.Name)
		files = append(files, filepath.Join(h.volume(p.UID, "conf"), "key"))
	}
	return files
}

func (h *host) volume(uid types.UID, name string) string {
	m, ok := h.agent.volumes.Mounted(uid, name)
	if !ok {
		h.t.Fatalf("volume %s is not mounted", name)
	}
	return m.Path
}

// edit changes the config map and gives when each file had the new text.
func (h *host) edit(files []string, text string) []time.Duration {
	h.t.Helper()
	maps := peer.Client.CoreV1().ConfigMaps("default")
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "shared-conf"}, Data: map[string]string{"key": text}}
	began := time.Now()
	_, err := maps.Update(context.Background(), cm, metav1.UpdateOptions{})
	if err != nil {
		_, err = maps.Create(context.Background(), cm, metav1.CreateOptions{})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	took := make([]time.Duration, len(files))
	h.eventually("the change in every volume", func() bool {
		all := true
		for i, f := range files {
			if took[i] != 0 {
				continue
			}
			if data, _ := os.ReadFile(f); string(data) == text {
				took[i] = time.Since(began)
				continue
			}
			all = false
		}
		return all
	})
	slices.Sort(took)
	return took
}

// TestConfigMapReachesPods: one that was not there when the pods started, and
// then changes.
func TestConfigMapReachesPods(t *testing.T) {
	h := newHost(t, "config")
	files := h.configured(4)
	h.edit(files, "one")
	h.edit(files, "two")
	h.delete("conf-0")
	h.edit(files[1:], "three")
}

// TestMissingConfigMap: the pod waits, says for what, and starts when it comes.
func TestMissingConfigMap(t *testing.T) {
	h := newHost(t, "missing")
	ctx := context.Background()
	_, err := peer.Client.CoreV1().Pods("default").Create(ctx, &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "needs"},
		Spec: v1.PodSpec{
			NodeName: h.name, TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{
				Name: "main", Image: "box", ImagePullPolicy: v1.PullIfNotPresent, Command: []string{"sh", "-c", sleeper},
				VolumeMounts: []v1.VolumeMount{{Name: "conf", MountPath: "/conf"}},
			}},
			Volumes: []v1.Volume{{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
				LocalObjectReference: v1.LocalObjectReference{Name: "needed-conf"}}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("an event that says what is missing", func() bool {
		list, err := peer.Client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=needs,reason=FailedMount"})
		return err == nil && slices.ContainsFunc(list.Items, func(e v1.Event) bool {
			return e.Message == `MountVolume.SetUp failed for volume "conf" : configmap "needed-conf" not found`
		})
	})
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "needed-conf"}, Data: map[string]string{"key": "here"}}
	if _, err := peer.Client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.running("needs")
	h.delete("needs")
}

// BenchmarkConfigMapEdit is an edit until it is in the volumes of 100 pods.
func BenchmarkConfigMapEdit(b *testing.B) {
	h := newHost(b, "config100")
	files := h.configured(100)
	var all []time.Duration
	for n := 0; b.Loop(); n++ {
		all = append(all, h.edit(files, fmt.Sprint("edit ", n))...)
	}
	slices.Sort(all)
	b.ReportMetric(all[len(all)/2].Seconds()*1000, "p50-ms")
	b.ReportMetric(all[len(all)*99/100].Seconds()*1000, "p99-ms")
}
