package runner

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// TestAdoption stops the runner as a kill does, and starts another.
func TestAdoption(t *testing.T) {
	b := newBed(t)
	keeps := pod("keeps", sleeper)
	ends := pod("ends", `until stat /end; do sleep 0.05; done; exit 5`, func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever })
	orphan := pod("orphan", sleeper)
	for _, p := range []*v1.Pod{keeps, ends, orphan} {
		b.runner.Set(p)
		b.phase(p, v1.PodRunning)
	}
	b.run(keeps, "true")
	// Another daemon's pod logs to the same place.
	foreign := filepath.Join(b.dir, "logs", "test_foreign_"+string(uuid.NewUUID()))
	if err := os.MkdirAll(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	before := b.last(keeps.UID).ContainerStatuses[0]
	ref, _ := b.runner.Container(ends.UID, "main")
	pid := b.pid(ref.ID)
	b.run(ends, "touch", "/keep")
	b.stop()

	// One container ends while no daemon looks.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the container's end", func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n == 1
	})
	_ = unix.Close(fd)

	for _, p := range []*v1.Pod{keeps, ends} {
		p.Status = b.last(p.UID)
	}
	b.record.mu.Lock()
	clear(b.status)
	b.record.mu.Unlock()
	b.start()
	b.runner.Set(keeps)
	b.runner.Set(ends)
	if err := b.runner.Synced(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.phase(keeps, v1.PodRunning)
	b.phase(ends, v1.PodFailed)
	after := b.last(keeps.UID).ContainerStatuses[0]
	if after.ContainerID != before.ContainerID || after.RestartCount != 0 || !after.Ready ||
		!after.State.Running.StartedAt.Equal(&before.State.Running.StartedAt) {
		t.Errorf("adopted container is %+v, was %+v", after, before)
	}
	if s := b.last(ends.UID).ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 137 || s.Reason != "Error" {
		t.Errorf("container that ended unseen: %+v", s)
	}
	attached, _ := b.network.Attached(context.Background())
	if has(attached, string(orphan.UID)) || b.cgroupsOf(orphan) != 0 {
		t.Error("the pod that is no more was not cleaned up")
	}
	if _, err := os.Stat(LogDir(filepath.Join(b.dir, "logs"), orphan)); !os.IsNotExist(err) {
		t.Errorf("logs of the pod that is no more: %v", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("logs of another daemon's pod: %v", err)
	}
	b.remove(keeps, ends)
}

// TestContainerdRestart kills containerd under running pods.
func TestContainerdRestart(t *testing.T) {
	b := newBed(t)
	p := pod("stays", sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	id := b.last(p.UID).ContainerStatuses[0].ContainerID
	b.ctrd.Kill(t)
	b.ctrd.Start(t)
	// The pod's end and a new start are both seen after the restart.
	ref, _ := b.runner.Container(p.UID, "main")
	if err := unix.Kill(b.pid(ref.ID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c := b.container(p, "main", "restarted", func(c v1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil })
	if c.ContainerID == id || !strings.Contains(id, ref.ID) {
		t.Errorf("container is still %s", id)
	}
	b.remove(p)
}

// TestStopAllKeepsObjects stops pods without reporting them gone.
func TestStopAllKeepsObjects(t *testing.T) {
	b := newBed(t)
	p := pod("stopped", sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if err := b.runner.StopAll(ctx); err != nil {
		t.Fatal(err)
	}
	if b.gone[p.UID] || b.last(p.UID).Phase != v1.PodRunning {
		t.Errorf("a stopped pod was reported: gone %v, %s", b.gone[p.UID], b.last(p.UID).Phase)
	}
	b.runner.Set(p)
	if _, ok := b.runner.Container(p.UID, "main"); ok {
		t.Error("a pod was started after the stop")
	}
	// The next runner starts it anew and says what happened.
	p.Status = b.last(p.UID)
	b.stop()
	b.start()
	b.runner.Set(p)
	c := b.container(p, "main", "started anew", func(c v1.ContainerStatus) bool { return c.State.Running != nil && c.RestartCount == 1 })
	if l := c.LastTerminationState.Terminated; l == nil || l.Reason != "ContainerStatusUnknown" {
		t.Errorf("last state: %+v", l)
	}
	b.remove(p)
}

// TestAdoptionAfterADeathInMidStart: the daemon died before the API heard that
// the container was up, and after the next one's root file system was prepared.
func TestAdoptionAfterADeathInMidStart(t *testing.T) {
	b := newBed(t)
	p := pod("early", sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	b.stop()

	p.Status = b.last(p.UID)
	no := false
	for i := range p.Status.ContainerStatuses {
		p.Status.ContainerStatuses[i].Ready, p.Status.ContainerStatuses[i].Started = false, &no
	}
	stray := "stray-" + string(p.UID)
	service := b.runner.Client.SnapshotService(b.runner.Snapshotter)
	ctx := namespaces.WithNamespace(context.Background(), b.runner.Namespace)
	if _, err := service.Prepare(ctx, stray, "", snapshots.WithLabels(map[string]string{labelPodUID: string(p.UID)})); err != nil {
		t.Fatal(err)
	}
	b.record.mu.Lock()
	clear(b.status)
	b.record.mu.Unlock()
	b.start()
	b.runner.Set(p)
	waitFor(t, "the adopted container being ready", func() bool {
		all := b.last(p.UID).ContainerStatuses
		return len(all) == 1 && all[0].Ready
	})
	if _, err := service.Stat(ctx, stray); !errdefs.IsNotFound(err) {
		t.Errorf("a root file system without a container: %v, want it removed", err)
	}
}
