package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/agent/internal/testbed"
)

// leftovers is what pods hold of the host, by kind.
func (h *host) leftovers() map[string][]string {
	h.t.Helper()
	out := map[string][]string{}
	ctx := namespaces.WithNamespace(context.Background(), testbed.Namespace)
	records, err := h.ctrd.Client.ContainerService().List(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range records {
		out["containers"] = append(out["containers"], r.ID)
	}
	err = h.ctrd.Client.SnapshotService(snapshotter).Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		if s.Kind == snapshots.KindActive {
			out["root file systems"] = append(out["root file systems"], s.Name)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, h.options.DataDir) {
			out["mounts"] = append(out["mounts"], line)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, h.options.CgroupRoot) {
			out["control groups"] = append(out["control groups"], path)
		}
		return nil
	})
	if out["networks"], err = h.network.Attached(ctx); err != nil {
		h.t.Fatal(err)
	}
	logs, err := os.ReadDir(h.options.LogDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.t.Fatal(err)
	}
	for _, e := range logs {
		out["logs"] = append(out["logs"], e.Name())
	}
	return out
}

func (h *host) leaves(kinds ...string) {
	h.t.Helper()
	may := map[string]bool{}
	for _, k := range kinds {
		may[k] = true
	}
	for kind, list := range h.leftovers() {
		if len(list) > 0 && !may[kind] {
			h.t.Errorf("%s left: %q", kind, list)
		}
	}
}

func (h *host) deleteNow(names ...string) {
	zero := int64(0)
	for _, name := range names {
		if err := peer.Client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			h.t.Error(err)
		}
	}
}

// TestClear takes away, without an agent, what a killed one left; one of the
// pods does not end when asked to.
func TestClear(t *testing.T) {
	h := newHost(t, "clear")
	h.create("polite", sleeper)
	h.create("deaf", `trap '' TERM; while :; do sleep 3600; done`)
	defer h.deleteNow("polite", "deaf")
	h.running("polite")
	h.running("deaf")
	h.stop()
	for _, kind := range []string{"containers", "root file systems", "mounts", "control groups", "networks", "logs"} {
		if len(h.leftovers()[kind]) == 0 {
			t.Errorf("the test does not see %s", kind)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	options := h.options
	options.Config = nil // no API server
	for range 2 {        // it may be repeated
		if err := Clear(ctx, options); err != nil {
			t.Fatal(err)
		}
		h.leaves()
	}
}

// TestStopPodsBeforeTheFirstList: pods of an earlier agent that this one has
// not heard of from the API are stopped all the same.
func TestStopPodsBeforeTheFirstList(t *testing.T) {
	h := newHost(t, "early")
	h.create("early", sleeper)
	defer h.deleteNow("early")
	h.running("early")
	h.stop()
	a, err := New(h.options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	run, stop := context.WithCancel(ctx)
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- a.runner.Run(run, func() { close(ready) }) }()
	select {
	case <-ready:
	case <-time.After(limit):
		t.Fatal("the runner is not ready")
	}
	if err := a.StopPods(ctx); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	h.leaves("logs")
	a.client.Close()
	a.listen.Close()
}
