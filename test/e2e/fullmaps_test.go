package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestFullMaps: services that the kernel's maps have no room for are said of the
// Node and of the services, and those that are in go on.
func TestFullMaps(t *testing.T) {
	second := startSecond(t, t.TempDir(), "--map-limits", "frontends=64")
	run := func(input string, args ...string) string {
		t.Helper()
		result := kubectlOf(t, second, input, args...)
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		return result.Stdout
	}
	full := func(want string) {
		t.Helper()
		eventually(t, "DatapathFull is "+want, func() error {
			out := kubectlOf(t, second, "", "get", "node", "second", "--output", `jsonpath={.status.conditions[?(@.type=="DatapathFull")]['status','message']}`).Stdout
			if !strings.HasPrefix(out, want) || want == "True" && !strings.Contains(out, "no room for") {
				return fmt.Errorf("the node says %q", out)
			}
			return nil
		})
	}
	full("False")
	var services strings.Builder
	for i := range 80 {
		fmt.Fprintf(&services, "---\napiVersion: v1\nkind: Service\nmetadata: {name: s%d, labels: {of: test}}\nspec: {selector: {app: nobody}, ports: [{port: 80}]}\n", i)
	}
	run(services.String(), "create", "--filename", "-")
	full("True")
	eventually(t, "a service has an Event", func() error {
		out := kubectlOf(t, second, "", "get", "events", "--field-selector", "reason=DatapathFull,involvedObject.kind=Service", "--output", "name").Stdout
		if out == "" {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	run("", "delete", "services", "--selector", "of=test")
	full("False")
}
