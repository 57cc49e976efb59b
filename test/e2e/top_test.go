package e2e

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"shoal/test/harness"
)

// used is what a line of `top` tells, in thousandths of a CPU and in bytes.
type used struct{ cpu, memory int64 }

// readTop returns the lines of `top` by the name that begins them. A node's
// have shares of the whole, in percent, between and behind the two quantities.
func readTop(text string) (map[string]used, error) {
	lines := map[string]used{}
	for line := range strings.Lines(text) {
		var quantities []resource.Quantity
		words := strings.Fields(line)
		for _, word := range words[1:] {
			if strings.HasSuffix(word, "%") {
				continue
			}
			q, err := resource.ParseQuantity(word)
			if err != nil {
				return nil, fmt.Errorf("top prints %q: %w", text, err)
			}
			quantities = append(quantities, q)
		}
		if len(quantities) != 2 {
			return nil, fmt.Errorf("top prints %q", text)
		}
		lines[words[0]] = used{quantities[0].MilliValue(), quantities[1].Value()}
	}
	return lines, nil
}

// TestTop: a host tells what it and its pods use, with nothing installed for that.
func TestTop(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, pod("burner", `
  containers:
  - name: main
    image: `+busyboxImage+`
    command: [sh, -c, "while :; do :; done"]
    resources: {limits: {cpu: 400m}}
`))
	apply(t, ns, pod("idle", `
  containers:
  - {name: main, image: `+busyboxImage+`, command: [sleep, "3600"]}
`))
	for _, name := range []string{"burner", "idle"} {
		podWhen(t, ns, name, "is ready", ready)
	}
	for client, run := range map[string]func(args ...string) harness.Result{
		"kubectl": func(args ...string) harness.Result { return runKubectl(t, "", args...) },
		"shoal":   func(args ...string) harness.Result { return daemon.Command(args...).Run(t.Context()) },
	} {
		// The figures of a pod's first seconds have its start in them.
		top := func(what string, enough func(map[string]used) bool, args ...string) map[string]used {
			var lines map[string]used
			eventually(t, client+" top "+what, func() error {
				result := run(append([]string{"top", what, "--no-headers"}, args...)...)
				if result.Err != nil {
					return result.Err
				}
				var err error
				if lines, err = readTop(result.Stdout); err == nil && !enough(lines) {
					err = fmt.Errorf("it is %q", result.Stdout)
				}
				return err
			})
			return lines
		}
		pods := top("pods", func(lines map[string]used) bool {
			idle, there := lines["idle"]
			return there && idle.cpu <= 10 && lines["burner"].cpu >= 50
		}, "--namespace", ns)
		if burner := pods["burner"]; burner.cpu > 600 {
			t.Errorf("%s: the burner, which has a limit of 400m, uses %dm", client, burner.cpu)
		}
		for name, pod := range pods {
			if pod.memory > 64<<20 {
				t.Errorf("%s: the shell of %s has %d bytes", client, name, pod.memory)
			}
		}
		node := top("nodes", func(lines map[string]used) bool { return lines[daemon.Name].cpu >= 50 })[daemon.Name]
		if all := int64(runtime.NumCPU()) * 1000; node.cpu > all || node.memory < 64<<20 {
			t.Errorf("%s: the node uses %+v, and has %dm", client, node, all)
		}
		containers := run("top", "pods", "burner", "--containers", "--namespace", ns)
		mentions(t, containers.Stdout+containers.Stderr, "burner", "main")
	}
}
