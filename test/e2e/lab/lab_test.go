package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"shoal/cmd/shoal/lab"
	"shoal/test/harness"
)

// TestLab walks one lab through everything it can do, and looks for what is left.
func TestLab(t *testing.T) {
	down(t) // what a run that was killed left behind
	named := up(t, 1)
	group := named.Group()
	down(t)
	before := holdings(t, group)
	if left := added(before, nil); len(left) == 0 {
		t.Fatal("the machine holds nothing at all: the check sees nothing")
	}

	l := up(t, nodes)
	t.Run("ls", func(t *testing.T) { testList(t) })
	t.Run("exec", func(t *testing.T) { testExec(t, l) })
	t.Run("cut", func(t *testing.T) { testCut(t, l) })
	t.Run("cut one way", func(t *testing.T) { testCutOneWay(t, l) })
	t.Run("slow", func(t *testing.T) { testSlow(t, l) })
	t.Run("kill", func(t *testing.T) { testKill(t, l) })
	t.Run("refused", func(t *testing.T) { testRefused(t) })

	must(t, "cut", "1")
	must(t, "slow", "2", "--delay", "1ms")
	during, living := holdings(t, group), population(t, group)
	for _, kind := range []string{"link", "file", "control group"} {
		if !strings.Contains(strings.Join(added(during, before), "\n"), kind+" ") {
			t.Errorf("a lab that is up adds no %s: the check does not see it", kind)
		}
	}
	// A daemon, its containerd and a first process for each; five namespaces each.
	if len(living.pids) < 3*nodes || len(living.namespaces) < len(kinds)*nodes {
		t.Errorf("the check sees %d processes and %d namespaces of %d peers", len(living.pids), len(living.namespaces), nodes)
	}
	must(t, "down")
	if err := living.gone(); err != nil {
		t.Error(err)
	}
	if left := added(holdings(t, group), before); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	must(t, "down") // no error on nothing
	if _, err := lab.Open(dir); !errors.Is(err, lab.ErrNoLab) {
		t.Errorf("open after down: %v", err)
	}
}

func testList(t *testing.T) {
	var peers []lab.Status
	if err := json.Unmarshal([]byte(must(t, "ls", "-o", "json")), &peers); err != nil {
		t.Fatal(err)
	}
	if len(peers) != nodes {
		t.Fatalf("%d peers, want %d", len(peers), nodes)
	}
	for i, p := range peers {
		if p.Number != i+1 || p.Name != fmt.Sprintf("lab-%d", i+1) || p.API != lab.APIReady || !harness.Alive(p.Pid) || p.MemoryBytes == 0 || p.Killed {
			t.Errorf("peer %d: %+v", i+1, p)
		}
	}
	for _, p := range peers {
		if text := must(t, "ls"); !strings.Contains(text, p.Address.String()) {
			t.Errorf("%s is missing in\n%s", p.Address, text)
		}
	}
}

func testExec(t *testing.T, l *lab.Lab) {
	for n := 1; n <= nodes; n++ {
		name := fmt.Sprintf("lab-%d", n)
		if out := must(t, "exec", fmt.Sprint(n), "--", "shoal", "get", "nodes", "-o", "name"); !strings.Contains(out, "node/"+name+"\n") {
			t.Errorf("nodes seen from %s: %s", name, out)
		}
		if out := must(t, "exec", fmt.Sprint(n), "--", "cat", "/proc/sys/kernel/hostname"); out != name+"\n" {
			t.Errorf("host name of %s: %q", name, out)
		}
		config, err := l.Config(n)
		if err != nil {
			t.Fatal(err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Errorf("node %s from this machine: %v", name, err)
		}
	}
	if result := command(t, "exec", "1", "--", "sh", "-c", "exit 7"); result.Code != 7 {
		t.Errorf("exit code %d, want the command's 7: %v", result.Code, result.Err)
	}
	if result := command(t, "exec", "1", "--", "no-such-program"); result.Code == 0 || !strings.Contains(result.Stderr, "no-such-program") {
		t.Errorf("exec of nothing: %+v", result)
	}
}

func testCut(t *testing.T, l *lab.Lab) {
	must(t, "cut", "1")
	for _, pair := range [][2]int{{1, 2}, {2, 1}, {3, 1}} {
		if _, err := reach(t, l, pair[0], pair[1]); err == nil {
			t.Errorf("%d reaches %d across the cut", pair[0], pair[1])
		}
	}
	if _, err := reach(t, l, 2, 3); err != nil {
		t.Errorf("on the same side: %v", err)
	}
	for n := 1; n <= nodes; n++ {
		if _, err := reachFromHere(t, l, n); err != nil {
			t.Errorf("from this machine: %v", err)
		}
	}
	must(t, "heal")
	if _, err := reach(t, l, 1, 2); err != nil {
		t.Errorf("after healing: %v", err)
	}
}

// testCutOneWay sends datagrams both ways over a link cut in one direction.
func testCutOneWay(t *testing.T, l *lab.Lab) {
	must(t, "cut", "--from", "1", "--to", "2")
	ears := map[int]*bufio.Scanner{}
	for _, n := range []int{1, 2} {
		var pipe interface{ Read([]byte) (int, error) }
		cmd, err := on(t, l, n, "listen", func(cmd *exec.Cmd) { pipe, _ = cmd.StdoutPipe() })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		ears[n] = bufio.NewScanner(pipe)
		hears(t, ears[n], "listening")
	}
	tell := func(from, to int, text string) {
		addr, err := l.Address(to)
		if err != nil {
			t.Fatal(err)
		}
		cmd, err := on(t, l, from, fmt.Sprintf("send %s%s %s", addr, heard, text), func(*exec.Cmd) {})
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// What arrives from 3 after it shows that the one from 1 did not.
	tell(1, 2, "dropped")
	tell(2, 1, "passed")
	tell(3, 2, "after")
	hears(t, ears[1], "passed")
	hears(t, ears[2], "after")
	must(t, "heal")
	tell(1, 2, "healed")
	hears(t, ears[2], "healed")
}

func hears(t *testing.T, ear *bufio.Scanner, want string) {
	t.Helper()
	if !ear.Scan() || ear.Text() != want {
		t.Fatalf("heard %q, want %q: %v", ear.Text(), want, ear.Err())
	}
}

func testSlow(t *testing.T, l *lab.Lab) {
	const delay = 40 * time.Millisecond
	before, err := reach(t, l, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	must(t, "slow", "1", "--delay", delay.String())
	after, err := reach(t, l, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	here, err := reachFromHere(t, l, 1)
	if err != nil {
		t.Fatal(err)
	}
	if after < 2*delay || here < 2*delay {
		t.Errorf("a round trip took %s before, and %s (%s from this machine) with %s each way", before, after, here, delay)
	}
	// More than a frame at a time, and unsegmented: what a pod serves.
	if body := download(t, l, 1); len(body) < 10<<10 {
		t.Errorf("%d bytes over the slow link", len(body))
	}
	must(t, "cut", "1")
	if _, err := reach(t, l, 2, 1); err == nil {
		t.Error("a cut does not hold on a slow link")
	}
	must(t, "slow", "1", "--loss", "100%")
	if _, err := reachFromHere(t, l, 1); err == nil {
		t.Error("a link that loses everything carries something")
	}
	must(t, "heal")
	healed, err := reach(t, l, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	if healed >= after {
		t.Errorf("a round trip takes %s after healing, and took %s before", healed, after)
	}
}

// download gets something long from a peer's API.
func download(t *testing.T, l *lab.Lab, n int) []byte {
	t.Helper()
	config, err := l.Config(n)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := client.RESTClient().Get().AbsPath("/openapi/v2").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func testKill(t *testing.T, l *lab.Lab) {
	config, err := l.Config(3)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	must(t, "exec", "3", "--", "shoal", "create", "configmap", "kept", "--from-literal=a=b")
	runPod(t, client)
	must(t, "exec", "3", "--", "touch", "/run/lost", "/var/log/kept")
	victim := population(t, filepath.Join(l.Group(), "3"))
	// Its first process, the daemon, containerd, the pod's shim and the pod.
	if len(victim.pids) < 5 {
		t.Fatalf("a peer of %d processes", len(victim.pids))
	}
	must(t, "kill", "3")
	if err := victim.gone(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := http.DefaultClient.Do(request); err == nil {
		_ = response.Body.Close()
		t.Error("a killed peer answers")
	}
	peers, err := l.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := peers[2]; !p.Killed || p.API != lab.APIDead || p.Pid != 0 || peers[1].Killed {
		t.Errorf("list after a kill: %+v", peers)
	}
	if result := command(t, "exec", "3", "--", "true"); !strings.Contains(result.Stderr, "lab start 3") {
		t.Errorf("exec on a killed peer: %+v", result)
	}
	must(t, "cut", "3") // holds from its next start on
	must(t, "start", "3")
	if _, err := reach(t, l, 2, 3); err == nil {
		t.Error("a peer that was cut while dead is reached")
	}
	must(t, "heal")
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("what the peer held before it was killed: %v", err)
	}
	podRuns(t, client, 1)
	if out := must(t, "exec", "3", "--", "sh", "-c", "ls /run/lost /var/log/kept 2>/dev/null || true"); out != "/var/log/kept\n" {
		t.Errorf("files after a reboot: %q", out)
	}
	if result := command(t, "start", "3"); !strings.Contains(result.Stderr, "runs already") {
		t.Errorf("a second start: %+v", result)
	}
	// The daemon alone, on a host that goes on.
	must(t, "exec", "3", "--", "shoal", "stop")
	eventually(t, "the daemon stopped", func() error {
		peers, err := l.Peers(t.Context())
		if err == nil && (peers[2].Pid != 0 || peers[2].API == lab.APIReady) {
			err = fmt.Errorf("%+v", peers[2])
		}
		return err
	})
	must(t, "start", "3")
}

// runPod runs a pod on a peer that is a cell of its own.
func runPod(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	archive := filepath.Join(world.Dir, "image.tar")
	if err := harness.WriteImage(t.Context(), archive, "lab/sleep:1", "", "sleep 1000000"); err != nil {
		t.Fatal(err)
	}
	must(t, "exec", "3", "--", "shoal", "image", "load", archive)
	must(t, "exec", "3", "--", "shoal", "run", "sleeper", "--image=lab/sleep:1")
	podRuns(t, client, 0)
}

// podRuns waits until the pod runs again after so many restarts.
func podRuns(t *testing.T, client kubernetes.Interface, restarts int32) {
	t.Helper()
	eventually(t, "the pod runs", func() error {
		pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			for _, status := range pod.Status.ContainerStatuses {
				if status.State.Running != nil && status.RestartCount == restarts {
					return nil
				}
			}
		}
		return fmt.Errorf("%d pods, none runs after %d restarts: %+v", len(pods.Items), restarts, pods.Items)
	})
}

func testRefused(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"up"}, "there is a lab already"},
		{[]string{"kill", "9"}, "there is no peer 9: this lab has peers 1 to 3"},
		{[]string{"kubeconfig", "0"}, "there is no peer 0"},
		{[]string{"cut", "1,x"}, "not a list of peers"},
		{[]string{"cut", "1,2,3"}, "nobody is left"},
		{[]string{"cut"}, "give the peers to separate"},
		{[]string{"cut", "--from", "1"}, "both --from and --to"},
		{[]string{"slow", "1"}, "give --delay, --loss or both"},
		{[]string{"slow", "1", "--loss", "101%"}, "between 0% and 100%"},
		{[]string{"slow", "1", "--loss", "much"}, "want a percentage"},
		{[]string{"slow", "1", "--delay", "1h"}, "want between 0 and"},
	} {
		if result := command(t, c.args[0], c.args[1:]...); result.Code != 1 || !strings.Contains(result.Stderr, c.want) {
			t.Errorf("%v: code %d, %q; want %q", c.args, result.Code, result.Stderr, c.want)
		}
	}
	elsewhere := []string{"--dir", t.TempDir()}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"ls"}, "there is no lab"},
		{[]string{"kill", "1"}, "there is no lab"},
		{[]string{"up", "--nodes", "0"}, "--nodes and --memory cannot be 0"},
		{[]string{"up", "--nodes", "51"}, "--nodes 51"},
		{[]string{"up", "--memory", "1Mi"}, "a peer needs"},
		{[]string{"up", "--subnet", "192.0.2.0/24"}, "this machine routes"},
	} {
		result := harness.Command{Argv: append(append([]string{shoal, "lab"}, c.args...), elsewhere...)}.Run(t.Context())
		if result.Code != 1 || !strings.Contains(result.Stderr, c.want) {
			t.Errorf("%v: code %d, %q; want %q", c.args, result.Code, result.Stderr, c.want)
		}
	}
	const nobody = 65534
	if result := (harness.Command{Argv: []string{shoal, "lab", "ls"}, User: nobody}).Run(t.Context()); result.Code == 0 {
		t.Errorf("a user who is not root: %+v", result)
	}
}

// TestUpOverRemains makes a lab where one was cut short, and refuses a
// directory that is somebody else's.
func TestUpOverRemains(t *testing.T) {
	down(t)
	up(t, 1)
	// The machine went down: nothing runs, the links are gone, the files are not.
	record, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		t.Fatal(err)
	}
	down(t)
	stale := filepath.Join(dir, "1", "lib", "shoal", "store")
	if err := os.MkdirAll(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lab.json"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	if result := command(t, "kill", "1"); !strings.Contains(result.Stderr, "lab up") {
		t.Errorf("a kill in the remains of a lab: %+v", result)
	}
	l := up(t, 1)
	if _, err := reachFromHere(t, l, 1); err != nil {
		t.Error(err)
	}
	// An `up` that was killed halfway has processes and no complete record.
	var state map[string]any
	if err := json.Unmarshal(record, &state); err != nil {
		t.Fatal(err)
	}
	living := population(t, l.Group())
	state["complete"] = false
	if record, err = json.Marshal(state); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lab.json"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	up(t, 1)
	if err := living.ended(); err != nil {
		t.Error(err)
	}
	down(t)

	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "letters.txt"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"up", "down"} {
		result := harness.Command{Argv: []string{shoal, "lab", verb, "--dir", foreign}}.Run(t.Context())
		if verb == "up" && !strings.Contains(result.Stderr, "holds other things") {
			t.Errorf("up in a foreign directory: %+v", result)
		}
		if _, err := os.Stat(filepath.Join(foreign, "letters.txt")); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
}
