package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	clientwatch "k8s.io/client-go/tools/watch"
)

const (
	benchImage = "busybox:bench"
	podRuns    = 20
	replicas   = 100
	// patience bounds a wait; beyond it the measurement fails.
	patience = 3 * time.Minute
)

func (b *bench) client(ctx context.Context) (*kubernetes.Clientset, error) {
	daemon, err := b.running(ctx)
	if err != nil {
		return nil, err
	}
	config, err := daemon.RestConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return client, nil
}

// waits is what containers do: wait, and end when asked to. Without the trap the
// kernel would keep SIGTERM from a first process, and the grace period would be
// what is measured.
const waits = "trap 'exit 0' TERM; sleep 2147483647 & wait"

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{
		Name: "main", Image: benchImage, Command: []string{"sh", "-c", waits},
	}}}
}

// podStart reports the time from a pod's creation to Running as a watcher sees
// it, one pod after the other.
func podStart(ctx context.Context, b *bench) error {
	client, err := b.client(ctx)
	if err != nil {
		return err
	}
	var times []time.Duration
	for i := range podRuns {
		took, err := startOnePod(ctx, client, fmt.Sprintf("start-%d", i))
		if err != nil {
			return err
		}
		times = append(times, took)
	}
	report("pod create → Running, p50 of 20", milliseconds(percentile(times, 50)), "ms", atMost(150), "603")
	report("pod create → Running, p95 of 20", milliseconds(percentile(times, 95)), "ms", atMost(250), "849")
	return nil
}

func startOnePod(ctx context.Context, client *kubernetes.Clientset, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pods := client.CoreV1().Pods("default")
	list, err := pods.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, err
	}
	watcher, err := pods.Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", name).String(),
		ResourceVersion: list.ResourceVersion,
	})
	if err != nil {
		return 0, err
	}
	defer watcher.Stop()
	began := time.Now()
	object := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec()}
	if _, err := pods.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	_, err = clientwatch.UntilWithoutRetry(ctx, watcher, func(event watch.Event) (bool, error) {
		pod, ok := event.Object.(*corev1.Pod)
		return ok && pod.Status.Phase == corev1.PodRunning, nil
	})
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("wait for pod %s: %w", name, err)
	}
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, err
	}
	return took, until(ctx, func() (bool, error) {
		left, err := pods.List(ctx, metav1.ListOptions{})
		return err == nil && len(left.Items) == 0, err
	})
}

// deploymentOfHundred reports the time from creating a Deployment of 100 until
// all are ready, and from deleting it until no pod is left; once more with a
// readiness probe.
func deploymentOfHundred(ctx context.Context, b *bench) error {
	client, err := b.client(ctx)
	if err != nil {
		return err
	}
	took, err := startHundred(ctx, client, podSpec())
	if err != nil {
		return err
	}
	report("Deployment of 100 → all Ready", took.Seconds(), "s", atMost(8), "26.6")
	if b.floorUp > 0 {
		report("Deployment of 100 over containerd alone", took.Seconds()/b.floorUp.Seconds(), "×", stated, "4.5")
	}
	if took, err = endHundred(ctx, client); err != nil {
		return err
	}
	report("Deployment of 100 → all gone", took.Seconds(), "s", atMost(3), "4.6")

	probed := podSpec()
	probed.Containers[0].Command = []string{"sh", "-c", serves}
	probed.Containers[0].ReadinessProbe = httpProbe(1)
	if took, err = startHundred(ctx, client, probed); err != nil {
		return err
	}
	report("the same with a readiness probe of 1 s → all Ready", took.Seconds(), "s", stated, "")
	_, err = endHundred(ctx, client)
	return err
}

const hundred = "hundred"

// startHundred makes a Deployment of 100 and returns when all are ready.
func startHundred(ctx context.Context, client kubernetes.Interface, spec corev1.PodSpec) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	count := int32(replicas)
	labels := map[string]string{"app": hundred}
	object := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: hundred},
		Spec: appsv1.DeploymentSpec{
			Replicas: &count,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}
	deployments := client.AppsV1().Deployments("default")
	began := time.Now()
	if _, err := deployments.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	err := until(ctx, func() (bool, error) {
		deployment, err := deployments.Get(ctx, hundred, metav1.GetOptions{})
		return err == nil && deployment.Status.ReadyReplicas == replicas, err
	})
	if err != nil {
		return 0, fmt.Errorf("wait for %d ready pods: %w", replicas, err)
	}
	return time.Since(began), nil
}

// endHundred deletes it and returns when no pod is left.
func endHundred(ctx context.Context, client kubernetes.Interface) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	background := metav1.DeletePropagationBackground
	if err := client.AppsV1().Deployments("default").Delete(ctx, hundred, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		return 0, err
	}
	err := until(ctx, func() (bool, error) {
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + hundred, Limit: 1})
		return err == nil && len(pods.Items) == 0, err
	})
	if err != nil {
		return 0, fmt.Errorf("wait until the pods are gone: %w", err)
	}
	return time.Since(began), nil
}

// until asks every few milliseconds: often enough for the figures, seldom
// enough not to be what is measured.
func until(ctx context.Context, done func() (bool, error)) error {
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("it did not happen in time")
		case <-time.After(25 * time.Millisecond):
		}
	}
}
