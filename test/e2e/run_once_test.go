package e2e

import (
	"fmt"
	"testing"
)

// TestRunThatEndsAtOnce: `kubectl run -i --rm` shows what the command has written
// once, however soon it ends.
func TestRunThatEndsAtOnce(t *testing.T) {
	ns := newNamespace(t)
	for i, wait := range []string{"true", "sleep 0.1", "true", "sleep 0.3", "true", "sleep 0.6", "true", "sleep 1"} {
		got := kubectl(t, "-n", ns, "run", fmt.Sprintf("once%d", i), "-i", "--rm", "--quiet", "--restart=Never", "--image="+busyboxImage, "--image-pull-policy=Never",
			"--", "sh", "-c", "echo first; "+wait+"; echo last")
		if got != "first\nlast\n" {
			t.Errorf("after %q: %q", wait, got)
		}
	}
}
