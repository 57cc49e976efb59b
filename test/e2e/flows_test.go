package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "shoal/api/control/v1"
	"shoal/test/harness"
)

// followed collects what `shoal flows -f -o json` prints.
type followed struct {
	mu    sync.Mutex
	flows []v1.Flow
	end   error
}

func (f *followed) has(is func(*v1.Flow) bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.ContainsFunc(f.flows, func(flow v1.Flow) bool { return is(&flow) }) {
		return nil
	}
	return errors.Join(fmt.Errorf("none of %d flows is it: %+v", len(f.flows), f.flows), f.end) // of the command
}

// followFlows runs `shoal flows -f` until the test ends.
func followFlows(t *testing.T, args ...string) *followed {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	argv := daemon.Command(append([]string{"flows", "-f", "-o", "json"}, args...)...)
	cmd := exec.CommandContext(ctx, argv.Argv[0], argv.Argv[1:]...)
	cmd.Env = append(cmd.Environ(), argv.Env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &followed{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var flow v1.Flow
			if err := json.Unmarshal(lines.Bytes(), &flow); err != nil {
				f.mu.Lock()
				f.end = err
				f.mu.Unlock()
				continue
			}
			f.mu.Lock()
			f.flows = append(f.flows, flow)
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait()
	})
	return f
}

// empty is a service that nobody answers.
const empty = `
apiVersion: v1
kind: Service
metadata: {name: empty}
spec:
  selector: {app: nobody}
  ports: [{port: 80}]
`

// TestFlows: who opens connections, from pods, from this host and from another
// machine, is shown with names; so is a call that is refused, with the reason.
func TestFlows(t *testing.T) {
	ns := newNamespace(t)
	service := startEcho(t, ns, 1)
	apply(t, ns, empty)
	echoPod := podsReady(t, ns, "app=echo", 1)[0]
	apply(t, ns, pod("caller", `
  containers:
  - {name: main, image: `+busyboxImage+`, command: [sleep, "3600"]}
`))
	podWhen(t, ns, "caller", "is ready", ready)
	refusedService, err := client.CoreV1().Services(ns).Get(t.Context(), "empty", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	of, dropped := followFlows(t, "--pod", ns+"/caller"), followFlows(t, "-n", ns, "--dropped")
	all := followFlows(t, "--host", daemon.Name)
	name := func(s string) string { return ns + "/" + s }
	forwarded := func(f *v1.Flow) bool {
		return f.Verdict == v1.Forwarded && f.Source.Pod == name("caller") && f.Service == name("echo:80/TCP") &&
			f.Destination.Address == clusterAddr(service) && f.Backend.Pod == name(echoPod.Name) && f.Host == daemon.Name
	}
	opened := func(f *v1.Flow) bool {
		return f.Verdict == v1.Forwarded && f.Source.Pod == name("caller") && f.Destination.Pod == name(echoPod.Name)
	}
	closed := func(f *v1.Flow) bool {
		return f.Verdict == v1.Closed && f.Source.Pod == name("caller") && f.Destination.Pod == name(echoPod.Name)
	}
	refused := func(f *v1.Flow) bool {
		return f.Verdict == v1.Dropped && f.Reason == "no-backend" && f.Source.Pod == name("caller") && f.Service == name("empty:80/TCP")
	}
	outside := func(f *v1.Flow) bool {
		return f.Verdict == v1.Forwarded && strings.HasPrefix(f.Source.Address, harness.OutsideAddr+":") &&
			f.Service == name("echo:80/TCP") && f.Backend.Pod == name(echoPod.Name) && f.Destination.Node == daemon.Name
	}
	// Again and again, since the readers may not be heard yet.
	eventually(t, "all flows are seen", func() error {
		callFrom := func(addr string) error {
			host, port, _ := net.SplitHostPort(addr)
			return runKubectl(t, "", "exec", "-n", ns, "caller", "--", "sh", "-c", "echo hello | nc -w 2 "+host+" "+port).Err
		}
		if err := callFrom(clusterAddr(service)); err != nil {
			return err
		}
		if err := callFrom(net.JoinHostPort(refusedService.Spec.ClusterIP, "80")); err == nil {
			return fmt.Errorf("a service that nobody answers was reached")
		}
		if err := dialOutside(t, nodePort(service, "tcp")).say("hello"); err != nil {
			return err
		}
		for what, has := range map[string]error{
			"the pod's flow": of.has(forwarded), "the pod's opening": of.has(opened), "the pod's close": of.has(closed),
			"the pod's refusal": of.has(refused), "the refusal among drops": dropped.has(refused),
			"the call from outside": all.has(outside),
		} {
			if has != nil {
				return fmt.Errorf("%s: %w", what, has)
			}
		}
		return nil
	})
	if of.has(outside) == nil || dropped.has(forwarded) == nil {
		t.Error("a reader was given what it did not ask for")
	}
	// For people, and afterwards.
	mentions(t, shoal(t, "flows", "--dropped", "-n", ns), "dropped", name("caller"), "service "+name("empty:80/TCP"), "no-backend")
	metrics := shoal(t, "get", "--raw", "/api/v1/nodes/"+daemon.Name+"/proxy/metrics")
	mentions(t, metrics, `shoal_datapath_drops_total{reason="no-backend"}`, `shoal_datapath_map_fill_ratio{map="backends"}`,
		fmt.Sprintf(`shoal_service_refused_total{namespace=%q,port="80/TCP",service="empty"}`, ns),
		fmt.Sprintf(`shoal_service_connections_total{namespace=%q,port="80/TCP",service="echo"}`, ns))
}

// TestServicesAgainstTheKernel: what the kernel holds is what the store says,
// and is told apart when it is not.
func TestServicesAgainstTheKernel(t *testing.T) {
	ns := newNamespace(t)
	service := startEcho(t, ns, 2)
	pods := podsReady(t, ns, "app=echo", 2)
	text := shoal(t, "services", "echo", "-n", ns, "--backends")
	for _, pod := range pods {
		mentions(t, text, ns+"/"+pod.Name, pod.Status.PodIP+":9000")
	}
	mentions(t, text, daemon.Name, ns+"/echo:80/TCP", ns+"/echo:80/UDP", "active")
	if strings.Contains(text, "*") {
		t.Errorf("kernel and store differ:\n%s", text)
	}
	mentions(t, shoal(t, "services", "-n", ns), clusterAddr(service), "node port "+nodePort(service, "tcp"))
	if result := daemon.Command("services", "nothing", "-n", ns).Run(t.Context()); result.Err == nil || !strings.Contains(result.Stderr, "no host forwards") {
		t.Errorf("a service that is not there: %+v", result)
	}
}

// TestRepairedDatapath: a link's pin that somebody removed comes back, with an
// Event on the Node.
func TestRepairedDatapath(t *testing.T) {
	path := filepath.Join("/run/shoal-"+daemon.Name, "bpf/links/sock_connect4")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Event", func() error {
		list, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,reason=DatapathRepaired"})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == daemon.Name && strings.Contains(e.Message, "sock_connect4") {
				return nil
			}
		}
		return fmt.Errorf("none of %d Events tells of it", len(list.Items))
	})
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the pin is not back: %v", err)
	}
}
