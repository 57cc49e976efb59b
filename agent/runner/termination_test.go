package runner

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"shoal/agent/logwriter"
)

// lastWordsPod says why it ends, in its file or in its log.
func lastWordsPod(b *bed) {
	p := pod("words", `echo goodbye > /dev/termination-log; exit 1`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].TerminationMessagePath = "/dev/termination-log"
		second := *p.Spec.Containers[0].DeepCopy()
		second.Name, second.Command = "logs", []string{"sh", "-c", "echo from the log; exit 1"}
		second.TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
		p.Spec.Containers = append(p.Spec.Containers, second)
	})
	b.runner.Set(p)
	b.phase(p, v1.PodFailed)
	// The statuses are sorted by name.
	for i, want := range []string{"from the log\n", "goodbye\n"} {
		if got := b.last(p.UID).ContainerStatuses[i].State.Terminated.Message; got != want {
			b.t.Errorf("message %q, want %q", got, want)
		}
	}
	b.remove(p)
}

// logWriter is the process that writes the log of the pod's main container.
func (b *bed) logWriter(p *v1.Pod) int {
	b.t.Helper()
	path := LogPath(filepath.Join(b.dir, "logs"), p, "main", 0)
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file)
		if bytes.Contains(line, []byte(logwriter.Arg)) && bytes.Contains(line, []byte(path)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	b.t.Fatalf("nobody writes %s", path)
	return 0
}

// lateWordsPod ends while what it wrote is still to come into its log: it is waited
// for.
func lateWordsPod(b *bed) {
	p := pod("late-words", `until stat /go >/dev/null 2>&1; do sleep 0.05; done; echo from the log; exit 1`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
	})
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	writer := b.logWriter(p)
	if err := unix.Kill(writer, unix.SIGSTOP); err != nil {
		b.t.Fatal(err)
	}
	ref, _ := b.runner.Container(p.UID, "main")
	pid := b.pid(ref.ID)
	b.run(p, "touch", "/go")
	waitFor(b.t, "its end", func() bool { return dead(pid) })
	time.Sleep(200 * time.Millisecond) // who does not wait has looked by now
	if err := unix.Kill(writer, unix.SIGCONT); err != nil {
		b.t.Fatal(err)
	}
	b.phase(p, v1.PodFailed)
	if got := b.last(p.UID).ContainerStatuses[0].State.Terminated.Message; got != "from the log\n" {
		b.t.Errorf("message %q", got)
	}
	b.remove(p)
}
