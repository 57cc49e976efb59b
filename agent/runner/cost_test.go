package runner

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// memory is what this process keeps now: heap and stacks, after what is garbage
// was thrown away.
func memory() (bytes uint64, goroutines int) {
	for range 3 {
		runtime.GC()
		time.Sleep(50 * time.Millisecond) // finalizers, pools
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse, runtime.NumGoroutine()
}

// cpuTime is what this process has used of the processors.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// probedTwice gives a pod a liveness and a readiness probe by http, of the
// period that is the default. They ask the server at a port of the loopback:
// this bed's pods have no route to the host.
func probedTwice(port int) func(*v1.Pod) {
	return func(p *v1.Pod) {
		probe := &v1.Probe{PeriodSeconds: 10, FailureThreshold: 3, ProbeHandler: v1.ProbeHandler{
			HTTPGet: &v1.HTTPGetAction{Host: "127.0.0.1", Path: "/index.html", Port: intstr.FromInt(port)}}}
		p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].ReadinessProbe = probe, probe.DeepCopy()
	}
}

// server runs a web server in a pod of the host's network.
func (b *bed) server() int {
	b.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		b.t.Fatal(err)
	}
	p := pod("server", fmt.Sprintf(`echo ok > /index.html; httpd -p 127.0.0.1:%d -h /; `, port)+sleeper, probedTwice(port),
		func(p *v1.Pod) { p.Spec.HostNetwork = true })
	b.runner.Set(p)
	b.ready(p)
	return port
}

func (b *bed) ready(p *v1.Pod) {
	b.t.Helper()
	b.wait(p, "ready", func(s v1.PodStatus) bool { return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].Ready })
}

// BenchmarkProbedPods measures what 100 running pods with two probes each cost
// the runner while nothing happens. SHOAL_HEAP_PROFILE names a file for a
// profile of the heap.
func BenchmarkProbedPods(b *testing.B) {
	const pods, watched = 100, 20 * time.Second
	bed := newBed(b)
	port := bed.server()
	for b.Loop() {
		before, goroutines := memory()
		var all []*v1.Pod
		for i := range pods {
			p := pod(fmt.Sprintf("p%d", i), sleeper, probedTwice(port))
			all = append(all, p)
			bed.runner.Set(p)
		}
		for _, p := range all {
			bed.ready(p)
		}
		after, more := memory()
		b.ReportMetric(float64(after-before)/1024/pods, "KB/pod")
		b.ReportMetric(float64(more-goroutines)/pods, "goroutines/pod")
		if file := os.Getenv("SHOAL_HEAP_PROFILE"); file != "" {
			writeHeap(b, file)
		}
		used, at := cpuTime(), time.Now()
		time.Sleep(watched)
		b.ReportMetric(100*float64(cpuTime()-used)/float64(time.Since(at)), "%core")
		bed.remove(all...)
	}
}

func writeHeap(b *testing.B, file string) {
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := pprof.Lookup("heap").WriteTo(f, 0); err != nil {
		b.Fatal(err)
	}
	if err := pprof.Lookup("goroutine").WriteTo(os.Stderr, 1); err != nil {
		b.Fatal(err)
	}
}
