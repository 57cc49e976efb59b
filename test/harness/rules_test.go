package harness

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Rules that are added, or taken away, are noticed; a run that leaves them alone
// has the code of its tests.
func TestRulesUnchanged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	nft := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("nft", args...).CombinedOutput(); err != nil {
			t.Errorf("nft %v: %v: %s", args, err, out)
		}
	}
	for _, c := range []struct {
		name   string
		inside func() int
		want   int
	}{
		{"left alone", func() int { return 0 }, 0},
		{"left alone, and a test failed", func() int { return 3 }, 3},
		{"one is added", func() int { nft("add", "table", "ip", "added"); return 0 }, 1},
		{"all are taken away", func() int { nft("flush", "ruleset"); return 0 }, 1},
	} {
		// A thread of its own, which ends with its network and what is in it.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Errorf("make a network namespace: %v", err)
				return
			}
			if got := RulesUnchanged(c.inside); got != c.want {
				t.Errorf("%s: code %d, want %d", c.name, got, c.want)
			}
		}()
		<-done
	}
}
