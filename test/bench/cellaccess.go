package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"shoal/test/harness"
)

const (
	accessRuns = 30
	talker     = "talker"
	// talks writes the machine's uptime, to the hundredth of a second, four times
	// a second.
	talks = "trap 'exit 0' TERM; while :; do read up rest < /proc/uptime; echo $up; usleep 250000; done"
)

// access reports how long an exec takes and how soon a log line is shown, asked
// of another peer than the pod's.
func access(ctx context.Context, b *bench) error {
	c, err := b.cell(ctx)
	if err != nil {
		return err
	}
	archive := filepath.Join(b.world.Dir, "image.tar")
	if err := harness.WriteImage(ctx, archive, benchImage, "", ""); err != nil {
		return err
	}
	if _, err := c.Output(ctx, 1, "shoal", "image", "load", archive); err != nil {
		return err
	}
	daemons, err := c.daemons(ctx)
	if err != nil {
		return err
	}
	home, far := c.peers[0], c.peers[1]
	now := int64(0)
	spec := podSpec()
	spec.NodeName, spec.TerminationGracePeriodSeconds = daemons[0].Name, &now
	spec.Containers[0].Command = []string{"sh", "-c", talks}
	pods := home.client.CoreV1().Pods(cellSpace)
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = until(wait, func() (bool, error) {
		_, err := home.client.CoreV1().ServiceAccounts(cellSpace).Get(wait, "default", metav1.GetOptions{})
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the namespace's service account: %w", err)
	}
	if _, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: talker}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer func() { _ = pods.Delete(context.WithoutCancel(ctx), talker, metav1.DeleteOptions{}) }()
	err = until(wait, func() (bool, error) {
		pod, err := far.client.CoreV1().Pods(cellSpace).Get(wait, talker, metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning, nil
	})
	if err != nil {
		return fmt.Errorf("wait for pod %s: %w", talker, err)
	}
	return errors.Join(c.execTimes(ctx, far), followTimes(ctx, far))
}

// execTimes reports the round trip of a command that does nothing.
func (c *cell) execTimes(ctx context.Context, far *cellPeer) error {
	config, err := c.Config(far.number)
	if err != nil {
		return err
	}
	url := far.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(cellSpace).Name(talker).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"echo", "word"}, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	var times []time.Duration
	for range accessRuns {
		executor, err := remotecommand.NewWebSocketExecutor(config, "GET", url.String())
		if err != nil {
			return err
		}
		var out, stderr bytes.Buffer
		began := time.Now()
		if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &stderr}); err != nil {
			return fmt.Errorf("exec: %w: %s", err, stderr.String())
		}
		times = append(times, time.Since(began))
		if out.String() != "word\n" {
			return fmt.Errorf("exec said %q", out.String())
		}
	}
	report("exec round trip through another peer, p50 of 30", milliseconds(percentile(times, 50)), "ms", atMost(80), load())
	return nil
}

// followTimes reports how old a line is when it is shown, to a hundredth of a
// second and never too young.
func followTimes(ctx context.Context, far *cellPeer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tail := int64(0)
	stream, err := far.client.CoreV1().Pods(cellSpace).GetLogs(talker, &corev1.PodLogOptions{Follow: true, TailLines: &tail}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	var times []time.Duration
	lines := bufio.NewReader(stream)
	for range accessRuns {
		line, err := lines.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("follow a log: %w", err)
		}
		now, err := uptime()
		if err != nil {
			return err
		}
		written, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
		if err != nil {
			return fmt.Errorf("log line %q: %w", line, err)
		}
		times = append(times, time.Duration((now-written)*float64(time.Second)))
	}
	report("log line written → shown by another peer, p50 of 30", milliseconds(percentile(times, 50)), "ms", atMost(100), load())
	report("log line written → shown by another peer, slowest", milliseconds(percentile(times, 100)), "ms", stated, load())
	return nil
}

// uptime is the machine's in seconds, from where the container reads it.
func uptime() (float64, error) {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(data), " ")
	return strconv.ParseFloat(first, 64)
}
