package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"shoal/test/harness"
)

// serves answers on port 8080, and ends when asked to.
const serves = "mkdir /tmp/w; echo ok > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; " + waits

const (
	probePeriodSeconds = 10
	// collected is how long the daemon gets to give back what the start of a
	// hundred pods left behind as garbage.
	collected   = 2 * time.Minute
	collections = 4
	// editRuns is how often the config map is edited: 1,000 sightings.
	editRuns   = 10
	lookEvery  = 5 * time.Millisecond
	configName = "bench-config"
)

func httpProbe(periodSeconds int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/index.html", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: periodSeconds, TimeoutSeconds: 5,
	}
}

// podCost reports what a hundred pods with two probes and a config map each cost
// the daemon at rest, and how soon they see an edit of the config map.
func podCost(ctx context.Context, b *bench) error {
	daemon, err := b.described(ctx, "podcost")
	if err != nil {
		return err
	}
	if err := daemon.Start(ctx); err != nil {
		return err
	}
	defer daemon.Terminate()
	client, err := b.freshClient(ctx, daemon)
	if err != nil {
		return err
	}
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configName}, Data: map[string]string{"word": "first"}}
	if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, config, metav1.CreateOptions{}); err != nil {
		return err
	}
	time.Sleep(idleSettle)
	fresh, err := afterCollections(ctx, client, daemon)
	if err != nil {
		return err
	}
	before, err := withoutPods(ctx, client, daemon)
	if err != nil {
		return err
	}
	if _, err := startHundred(ctx, client, costlySpec()); err != nil {
		return err
	}
	if err := restCost(ctx, client, daemon, fresh, before); err != nil {
		return err
	}
	if err := editConfig(ctx, client, daemon); err != nil {
		return err
	}
	_, err = endHundred(ctx, client)
	return err
}

// withoutPods is the memory of a daemon that has run a hundred pods and runs none:
// what the work of starting them leaves in the heap stays there once, however
// many pods follow.
func withoutPods(ctx context.Context, client kubernetes.Interface, daemon *harness.Daemon) (int64, error) {
	if _, err := startHundred(ctx, client, costlySpec()); err != nil {
		return 0, err
	}
	if _, err := endHundred(ctx, client); err != nil {
		return 0, err
	}
	time.Sleep(collected)
	return afterCollections(ctx, client, daemon)
}

// afterCollections is the daemon's anonymous memory, not counting the garbage of
// the moment, which is up to two fifths of its heap.
func afterCollections(ctx context.Context, client kubernetes.Interface, daemon *harness.Daemon) (int64, error) {
	for range collections {
		if _, err := client.CoreV1().RESTClient().Get().RequestURI("/debug/pprof/heap?gc=1").DoRaw(ctx); err != nil {
			return 0, err
		}
		time.Sleep(idleSettle / collections)
	}
	return anonymousBytes(daemon.Pid())
}

func costlySpec() corev1.PodSpec {
	spec := podSpec()
	c := &spec.Containers[0]
	c.Command = []string{"sh", "-c", serves}
	c.ReadinessProbe, c.LivenessProbe = httpProbe(probePeriodSeconds), httpProbe(probePeriodSeconds)
	c.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/config"}}
	spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: configName}},
	}}}
	return spec
}

// freshClient is a client of daemon, which gets the test image.
func (b *bench) freshClient(ctx context.Context, daemon *harness.Daemon) (*kubernetes.Clientset, error) {
	archive := filepath.Join(b.world.Dir, "image.tar")
	if _, err := os.Stat(archive); errors.Is(err, os.ErrNotExist) {
		if err := harness.WriteImage(ctx, archive, benchImage, "", ""); err != nil {
			return nil, err
		}
	}
	if err := daemon.Command("image", "load", archive).Run(ctx).Err; err != nil {
		return nil, err
	}
	config, err := daemon.RestConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// restCost reports CPU and memory once nothing but probes happens. fresh is the
// memory of the daemon before it ever ran a pod, before that without pods.
func restCost(ctx context.Context, client kubernetes.Interface, daemon *harness.Daemon, fresh, before int64) error {
	time.Sleep(collected)
	share, _, err := atRest(daemon)
	if err != nil {
		return err
	}
	anonymous, err := afterCollections(ctx, client, daemon)
	if err != nil {
		return err
	}
	report("100 pods with two http probes of 10 s: daemon's CPU", share, "%", atMost(3), load())
	report("daemon's memory for a running pod", float64(anonymous-before)/replicas/1024, "KB", atMost(150), "")
	report("the first 100 pods: growth of the daemon", float64(anonymous-fresh)/megabyte, "MB", stated, "121, of six daemons")
	return nil
}

// editConfig edits the config map and looks when each pod has the new word, on
// the host's side of its volume, which is the directory that the pod has.
func editConfig(ctx context.Context, client kubernetes.Interface, daemon *harness.Daemon) error {
	files, err := filepath.Glob(filepath.Join(daemon.DataDir, "agent", "pods", "*", "volumes", "*", "config", "word"))
	if err != nil {
		return err
	}
	if len(files) != replicas {
		return fmt.Errorf("%d of %d pods have the config map", len(files), replicas)
	}
	var times []time.Duration
	for i := range editRuns {
		word := fmt.Sprintf("word-%d", i)
		patch := fmt.Appendf(nil, `{"data":{"word":%q}}`, word)
		began := time.Now()
		if _, err := client.CoreV1().ConfigMaps("default").Patch(ctx, configName, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
		seen, err := sightings(ctx, files, word, began)
		if err != nil {
			return err
		}
		times = append(times, seen...)
	}
	report("config map edited → in each of 100 pods, p99", percentile(times, 99).Seconds(), "s", atMost(2), "about 60")
	return nil
}

// sightings is when each of the files first had word in it, since began.
func sightings(ctx context.Context, files []string, word string, began time.Time) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	waiting := append([]string{}, files...)
	var seen []time.Duration
	for len(waiting) > 0 {
		left := waiting[:0]
		for _, file := range waiting {
			data, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(data)) == word {
				seen = append(seen, time.Since(began))
				continue
			}
			left = append(left, file)
		}
		waiting = left
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d pods have not seen the edit after %s", len(waiting), patience)
		case <-time.After(lookEvery):
		}
	}
	return seen, nil
}
