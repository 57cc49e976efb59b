package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"shoal/test/harness"
	"shoal/test/traffic"
)

// callers are pods that only stand for their networks, and policies by which one of
// them may call.
const callers = `
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {app: friend}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: ` + busyboxImage + `, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, labels: {app: stranger}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: ` + busyboxImage + `, command: [sleep, "100000"]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: echo}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}, {ipBlock: {cidr: ` + harness.OutsideAddr + `/32}}]}]
`

// TestUpgradeUnderLoad kills the daemon and starts it again, and replaces it by another
// program with other layouts of its kernel maps and back, while connections from the
// host, from a pod and from another machine are busy and new ones are made all the
// time, by TCP and UDP, under a policy. None breaks.
func TestUpgradeUnderLoad(t *testing.T) {
	ns := newNamespace(t)
	service := startEcho(t, ns, 2)
	apply(t, ns, callers)
	netns := map[string]string{}
	for _, name := range []string{"friend", "stranger"} {
		pod := podWhen(t, ns, name, "runs", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodRunning })
		netns[name] = filepath.Join("/run/shoal-"+daemon.Name, "net/netns", string(pod.UID))
	}
	within := func(name string, argv ...string) []string {
		return append([]string{"nsenter", "--net=" + netns[name], "--"}, argv...)
	}
	strangerCalls := func(ctx context.Context) bool {
		_, err := askFrom(ctx, within("stranger"), service.Spec.ClusterIP, "80")
		return err == nil
	}
	eventually(t, "policy refuses the stranger", func() error {
		if strangerCalls(t.Context()) {
			return fmt.Errorf("it still calls the service")
		}
		return nil
	})

	other := filepath.Join(world.Dir, "other-shoal")
	copyProgram(t, daemon.Binary, other)
	binary := daemon.Binary
	defer func() { daemon.Binary, daemon.Extra = binary, nil }()
	for _, step := range []struct {
		name  string
		end   func()
		other bool
	}{
		{"killed", func() { daemon.Kill() }, false},
		{"upgraded", func() {
			shoal(t, "stop", "--data-dir", daemon.DataDir)
			<-daemon.Exited()
		}, true},
		{"killed and downgraded", func() { daemon.Kill() }, false},
	} {
		load := startLoad(t, service, within)
		watching, stop := context.WithCancel(t.Context())
		watched := make(chan bool, 1)
		go func() {
			called := false
			for watching.Err() == nil {
				called = called || strangerCalls(watching)
			}
			watched <- called
		}()
		step.end()
		daemon.Binary, daemon.Extra = binary, nil
		if step.other {
			daemon.Binary = other
			daemon.Extra = []string{"--map-limits", "flows=32768,nats=32768,policy_conns=32768,policy_rules=65536,services=16384,frontends=32768"}
		}
		if err := daemon.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		kubectl(t, "wait", "--for", "condition=Ready", "node/"+daemon.Name, "--timeout", "60s")
		eventually(t, "one pin for each map", onePinEach)
		// A pod made now passes through everything.
		kubectl(t, "run", "later", "--namespace", ns, "--image", busyboxImage, "--command", "--", "sleep", "3600")
		kubectl(t, "wait", "--namespace", ns, "--for", "condition=Ready", "pod/later", "--timeout", "60s")
		kubectl(t, "delete", "pod", "later", "--namespace", ns, "--now")
		stop()
		if <-watched {
			t.Errorf("%s: the stranger reached the service", step.name)
		}
		for _, r := range load() {
			t.Logf("%s: %s", step.name, r)
			if r.Broken != 0 || r.Failed != 0 || r.Exchanges == 0 || r.Made == 0 {
				t.Errorf("%s: %s: %d open connections broke, %d new ones failed: %q", step.name, r.Path, r.Broken, r.Failed, r.Errors)
			}
		}
	}
}

// startLoad returns when all connections are open. The function it returns ends them.
func startLoad(t *testing.T, service *corev1.Service, within func(string, ...string) []string) (stop func() []traffic.Report) {
	t.Helper()
	var here, pod, outside []traffic.Path
	for _, network := range []string{"tcp", "udp"} {
		path := func(from, addr string) traffic.Path {
			return traffic.Path{Name: from + " by " + network, Network: network, Addr: addr, Open: 8}
		}
		here = append(here, path("host to service", clusterAddr(service)))
		pod = append(pod, path("pod to service", clusterAddr(service)))
		outside = append(outside, path("outside to node port", harness.NodeAddr+":"+nodePort(service, network)))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var children []*traffic.Child
	for _, c := range []struct {
		argv  []string
		paths []traffic.Path
	}{{[]string{self}, here}, {within("friend", self), pod}, {world.Outside(self), outside}} {
		child, err := traffic.StartChild(exec.Command(c.argv[0], c.argv[1:]...), c.paths)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(child.Kill)
		children = append(children, child)
	}
	return func() (all []traffic.Report) {
		for _, child := range children {
			reports, err := child.Stop()
			if err != nil {
				t.Error(err)
			}
			all = append(all, reports...)
		}
		return all
	}
}

// onePinEach fails while maps of two layouts are pinned.
func onePinEach() error {
	pins, err := filepath.Glob("/run/shoal-" + daemon.Name + "/bpf/maps/*")
	if err != nil {
		return err
	}
	if len(pins) == 0 {
		return fmt.Errorf("there are no pins")
	}
	var names []string
	for _, pin := range pins {
		base := filepath.Base(pin)
		name := base[:len(base)-len("-00000000")]
		if slices.Contains(names, name) {
			return fmt.Errorf("map %s has two pins", name)
		}
		names = append(names, name)
	}
	return nil
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
