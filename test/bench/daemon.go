package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"shoal/test/harness"
)

const (
	// idleSettle lets a fresh daemon finish what follows a start.
	idleSettle = 20 * time.Second
	idleWindow = 60 * time.Second
	// startRuns is odd, so that the median is one of the runs.
	startRuns      = 3
	restartObjects = 1000
	processRuns    = 21
	megabyte       = 1 << 20
	// ticksPerSecond is USER_HZ, the unit of times in /proc (proc(5)).
	ticksPerSecond = 100
)

// binarySize reports the size of the stripped binary.
func binarySize(context.Context, *bench) error {
	path, err := harness.Binary("bin/shoal")
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	report("stripped binary", float64(info.Size())/megabyte, "MB", atMost(180), "kubectl alone: 62")
	return nil
}

// startTimes reports a start on an empty directory and one with a thousand
// objects, from the process's start to an API that says it is ready.
func startTimes(ctx context.Context, b *bench) error {
	var empty []time.Duration
	for i := range startRuns {
		daemon, err := b.described(ctx, fmt.Sprintf("start%d", i))
		if err != nil {
			return err
		}
		began := time.Now()
		if err := daemon.Start(ctx); err != nil {
			return err
		}
		empty = append(empty, time.Since(began))
		if i < startRuns-1 {
			daemon.Terminate()
			continue
		}
		report("start on an empty directory, p50 of 3", percentile(empty, 50).Seconds(), "s", atMost(3), "about 15 by hand")
		return restartTimes(ctx, daemon)
	}
	return nil
}

func restartTimes(ctx context.Context, daemon *harness.Daemon) error {
	config, err := daemon.RestConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for i := range restartObjects {
		object := smallObject(fmt.Sprintf("object-%d", i))
		if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	var times []time.Duration
	for range startRuns {
		daemon.Terminate()
		began := time.Now()
		if err := daemon.Start(ctx); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	daemon.Terminate()
	report("restart with 1,000 objects, p50 of 3", percentile(times, 50).Seconds(), "s", atMost(3), "about 15 by hand")
	return nil
}

// idleCost reports memory and CPU of a daemon that has nothing to do.
func idleCost(ctx context.Context, b *bench) error {
	daemon, err := b.described(ctx, "idle")
	if err != nil {
		return err
	}
	if err := daemon.Start(ctx); err != nil {
		return err
	}
	defer daemon.Terminate()
	time.Sleep(idleSettle)
	share, anonymous, err := atRest(daemon)
	if err != nil {
		return err
	}
	report("idle: anonymous memory", float64(anonymous)/megabyte, "MB", atMost(220), "308")
	report("idle: CPU over 60 s", share, "%", atMost(1), "4.3")
	return nil
}

// atRest measures a daemon that nothing is asked of: the share of a core it takes
// over idleWindow, in percent, and then its anonymous memory in bytes.
func atRest(daemon *harness.Daemon) (share float64, anonymous int64, err error) {
	before, err := cpuTime(daemon.Pid())
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(idleWindow)
	after, err := cpuTime(daemon.Pid())
	if err != nil {
		return 0, 0, err
	}
	anonymous, err = anonymousBytes(daemon.Pid())
	return 100 * float64(after-before) / float64(idleWindow), anonymous, err
}

// anonymousBytes reads the memory of a process that no file backs.
func anonymousBytes(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Anonymous:" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("read smaps_rollup of %d: no line about anonymous memory", pid)
}

// cpuTime reads the CPU time a process has used.
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	const user, system = 11, 12 // utime and stime, counted after the name
	if len(fields) <= system {
		return 0, fmt.Errorf("read stat of %d: %q", pid, data)
	}
	ticks := 0
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// getPodsProcess reports the time of the whole `shoal get pods` process.
func getPodsProcess(ctx context.Context, b *bench) error {
	daemon, err := b.running(ctx)
	if err != nil {
		return err
	}
	var times []time.Duration
	for range processRuns {
		began := time.Now()
		if result := daemon.Command("get", "pods").Run(ctx); result.Err != nil {
			return result.Err
		}
		times = append(times, time.Since(began))
	}
	report("shoal get pods, whole process, p50 of 21", milliseconds(percentile(times, 50)), "ms", atMost(120), "kubectl, warm: 40")
	return nil
}

func smallObject(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"key": "value"}}
}

// percentile returns the value below or at which p percent of the times are.
func percentile(times []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
