package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// slowExec answers the start of a command, which runs by then, when it is told to.
const slowExec = `
if [ "$verb" = exec ]; then
	"$runc" "$@"; code=$?
	touch $dir/runs
	until [ -e $dir/go ]; do sleep 0.05; done
	exit $code
fi`

// TestExecEnds: a command ends with its session, also when that ends before it is
// told that the command runs, and when its shim does not answer for a while.
func TestExecEnds(t *testing.T) {
	b := newBed(t)
	dir := b.wrap(t, slowExec)
	p := pod("commands", sleeper, wrapped)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	ref, _ := b.runner.Container(p.UID, "main")
	shim := b.shimServing(p)
	for _, test := range []struct {
		name, seconds string
		hangs         bool
	}{
		{"a caller leaves", "36001", false},
		{"a caller leaves and the shim hangs", "36002", true},
	} {
		for _, file := range []string{"runs", "go"} {
			_ = os.Remove(filepath.Join(dir, file))
		}
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := b.runner.Exec(ctx, ExecRequest{ID: ref.ID, Command: []string{"sleep", test.seconds}})
			done <- err
		}()
		waitFor(t, "the command to run", func() bool { return there(dir, "runs") && called("sleep", test.seconds) == 1 })
		if test.hangs {
			if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		leave()
		if !test.hangs {
			put(t, dir, "go")
		}
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.hangs {
			_ = unix.Kill(shim, unix.SIGCONT)
			put(t, dir, "go")
		}
		waitFor(t, "the command to end when "+test.name, func() bool { return called("sleep", test.seconds) == 0 })
	}
	b.remove(p)
}
