package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/cri-client/pkg/logs"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/utils/buffer"

	"shoal/agent/logwriter"
)

// terminationMessageMax is the API's bound on a container's last words.
const terminationMessageMax = 4096

// terminationDir has a file for each container, in the pod's directory.
const terminationDir = "termination"

// terminationLog is the file a container may leave its last words in.
func (w *worker) terminationLog(pod *v1.Pod, c *v1.Container, taken map[string]bool) (*specs.Mount, error) {
	at := c.TerminationMessagePath
	if at == "" || taken[filepath.Clean(at)] {
		return nil, nil
	}
	file := w.terminationFile(pod, c.Name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("make termination log: %w", err)
	}
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		return nil, fmt.Errorf("make termination log: %w", err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		return nil, fmt.Errorf("make termination log: %w", err)
	}
	return &specs.Mount{Destination: at, Type: "bind", Source: file, Options: []string{"rbind", "rprivate", "rw"}}, nil
}

func (w *worker) terminationFile(pod *v1.Pod, container string) string {
	return filepath.Join(w.podDir(pod), terminationDir, container)
}

const (
	// logEndMax bounds the wait for the log of a container that has ended: its
	// writer is a process of its own, which reads late where the host is busy, and
	// goes on for as long as anything has the container's output open.
	logEndMax  = 5 * time.Second
	logEndPoll = 5 * time.Millisecond
)

// awaitLog waits until the log has all that an ended container wrote, if the end of
// it is to be its last words.
func (w *worker) awaitLog(ctx context.Context, c *v1.Container, inst *instance, code int32) {
	if c.TerminationMessagePolicy != v1.TerminationMessageFallbackToLogsOnError || code == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, logEndMax)
	defer cancel()
	tick := time.NewTicker(logEndPoll)
	defer tick.Stop()
	for path := LogPath(w.r.LogDir, w.newest(), c.Name, inst.attempt); !logwriter.Ended(path); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// terminationMessage is what the container wrote about its end: to its file,
// or, where the pod asks for that, at the end of its log.
func (w *worker) terminationMessage(pod *v1.Pod, s *slot, inst *instance, code int32) string {
	if text := tail(w.terminationFile(pod, s.spec.Name), terminationMessageMax); text != "" {
		return text
	}
	if s.spec.TerminationMessagePolicy != v1.TerminationMessageFallbackToLogsOnError || code == 0 {
		return ""
	}
	return lastOutput(LogPath(w.r.LogDir, pod, s.spec.Name, inst.attempt))
}

// lastOutput is the end of what a container wrote, in the kubelet's measure.
func lastOutput(path string) string {
	lines := int64(kubecontainer.MaxContainerTerminationMessageLogLines)
	end, err := buffer.NewTypedRingFixed[byte](kubecontainer.MaxContainerTerminationMessageLogLength)
	if err == nil {
		err = logs.ReadLogs(context.Background(), path, "", &logs.LogOptions{TailLines: &lines}, nil, end, end)
	}
	if err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	return string(end.Slice())
}

// tail reads the last limit bytes of a file; none if it cannot be read.
func tail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(limit, info.Size()))
	n, err := f.ReadAt(buf, info.Size()-int64(len(buf)))
	if err != nil && n == 0 {
		return ""
	}
	return string(buf[:n])
}
