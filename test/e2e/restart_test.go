package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/test/harness"
)

// containerIDs returns the container ids and restart counts of pods by name.
func containerIDs(pods []corev1.Pod) map[string]string {
	ids := map[string]string{}
	for _, pod := range pods {
		for _, status := range pod.Status.ContainerStatuses {
			ids[pod.Name+"/"+status.Name] = fmt.Sprintf("%s restarts=%d", status.ContainerID, status.RestartCount)
		}
	}
	return ids
}

// outsideConn is a connection kept open by a process on the other machine.
type outsideConn struct {
	in  io.Writer
	out *bufio.Reader
}

func dialOutside(t *testing.T, port string) *outsideConn {
	t.Helper()
	argv := world.Outside("busybox", "nc", harness.NodeAddr, port)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &outsideConn{in: in, out: bufio.NewReader(out)}
}

func (c *outsideConn) say(word string) error {
	if _, err := fmt.Fprintln(c.in, word); err != nil {
		return err
	}
	answer, err := c.out.ReadString('\n')
	if err != nil {
		return err
	}
	_, err = podOf(answer, word)
	return err
}

// TestDaemonKilled kills the daemon while pods serve traffic.
func TestDaemonKilled(t *testing.T) { testDaemonDown(t, func() { daemon.Kill() }) }

// TestDaemonStopped stops the daemon in order, which must leave pods as well.
func TestDaemonStopped(t *testing.T) {
	testDaemonDown(t, func() {
		shoal(t, "stop", "--data-dir", daemon.DataDir)
		<-daemon.Exited()
	})
}

func testDaemonDown(t *testing.T, end func()) {
	ns := newNamespace(t)
	service := startEcho(t, ns, 3)
	before := containerIDs(podsReady(t, ns, "app=echo", 3))
	open, err := net.Dial("tcp", clusterAddr(service))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	outside := dialOutside(t, nodePort(service, "tcp"))
	check := func(when string) {
		t.Helper()
		if _, err := say(open, "established"); err != nil {
			t.Errorf("%s: connection through the cluster address: %v", when, err)
		}
		if err := outside.say("established"); err != nil {
			t.Errorf("%s: connection from another machine: %v", when, err)
		}
		answered := map[string]bool{}
		for range 60 {
			for _, network := range []string{"tcp", "udp"} {
				name, err := ask(t.Context(), network, clusterAddr(service))
				if err != nil {
					t.Fatalf("%s: new %s connection: %v", when, network, err)
				}
				answered[name] = true
			}
		}
		if len(answered) != 3 {
			t.Errorf("%s: only %v answered", when, slices.Collect(maps.Keys(answered)))
		}
		if _, err := askFrom(t.Context(), world.Outside(), harness.NodeAddr, nodePort(service, "tcp")); err != nil {
			t.Errorf("%s: new connection from another machine: %v", when, err)
		}
	}
	check("before")
	tasks := liveTasks(t)
	end()
	check("while the daemon is down")
	if now := liveTasks(t); !slices.Equal(now, tasks) {
		t.Errorf("tasks while the daemon is down: %v, before %v", now, tasks)
	}
	if err := daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("after the start")
	kubectl(t, "wait", "--for", "condition=Ready", "node/"+daemon.Name, "--timeout", "240s")
	// A pod made now passes through the whole agent, so what it found at its
	// start has been dealt with by then.
	kubectl(t, "run", "later", "--namespace", ns, "--image", busyboxImage, "--command", "--", "sleep", "3600")
	kubectl(t, "wait", "--namespace", ns, "--for", "condition=Ready", "pod/later", "--timeout", "240s")
	kubectl(t, "delete", "pod", "later", "--namespace", ns, "--now")
	check("later")
	if after := containerIDs(podsReady(t, ns, "app=echo", 3)); !maps.Equal(before, after) {
		t.Errorf("containers before %v, after %v", before, after)
	}
	eventually(t, "the same tasks as before", func() error {
		if now := liveTasks(t); !slices.Equal(now, tasks) {
			return fmt.Errorf("%v, before %v", now, tasks)
		}
		return nil
	})
}

// TestStopWithPods stops the daemon and its pods; they come back with it.
func TestStopWithPods(t *testing.T) {
	ns := newNamespace(t)
	startEcho(t, ns, 2)
	shoal(t, "stop", "--pods", "--data-dir", daemon.DataDir)
	<-daemon.Exited()
	if tasks := liveTasks(t); len(tasks) > 0 {
		t.Errorf("tasks after `stop --pods`: %v", tasks)
	}
	if err := daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pods := podsReady(t, ns, "app=echo", 2)
	service, err := client.CoreV1().Services(ns).Get(t.Context(), "echo", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	allAnswer(t, "tcp", clusterAddr(service), pods)
}

// TestContainerdHangs stops containerd's process with its connections open, and
// then kills it: the node says so, pods go on serving, and what was asked for
// meanwhile happens when containerd is back.
func TestContainerdHangs(t *testing.T) {
	ns := newNamespace(t)
	service := startEcho(t, ns, 2)
	before := containerIDs(podsReady(t, ns, "app=echo", 2))
	nodeReady := func(want corev1.ConditionStatus, word string) {
		t.Helper()
		eventually(t, "node's readiness "+string(want), func() error {
			node, err := client.CoreV1().Nodes().Get(t.Context(), daemon.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == want && strings.Contains(c.Message, word) {
					return nil
				}
			}
			return fmt.Errorf("conditions %+v", node.Status.Conditions)
		})
	}
	serving := func() {
		t.Helper()
		if _, err := ask(t.Context(), "tcp", clusterAddr(service)); err != nil {
			t.Error(err)
		}
	}
	if err := syscall.Kill(containerd.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(containerd.Pid(), syscall.SIGCONT) }()
	nodeReady(corev1.ConditionFalse, "container runtime is down")
	serving()
	kubectl(t, "run", "meanwhile", "--namespace", ns, "--image", busyboxImage, "--overrides", `{"spec":{"nodeName":"`+daemon.Name+`"}}`, "--command", "--", "sleep", "3600")
	if err := syscall.Kill(containerd.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	nodeReady(corev1.ConditionTrue, "")
	kubectl(t, "wait", "--namespace", ns, "--for", "condition=Ready", "pod/meanwhile", "--timeout", "240s")

	if err := containerd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	serving()
	kubectl(t, "delete", "pod", "meanwhile", "--namespace", ns, "--now")
	kubectl(t, "run", "later", "--namespace", ns, "--image", busyboxImage, "--command", "--", "sleep", "3600")
	kubectl(t, "wait", "--namespace", ns, "--for", "condition=Ready", "pod/later", "--timeout", "240s")
	if after := containerIDs(podsReady(t, ns, "app=echo", 2)); !maps.Equal(before, after) {
		t.Errorf("containers before %v, after %v", before, after)
	}
}
