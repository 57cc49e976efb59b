package runner

import (
	"context"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// execPod runs commands, with input, output and exit codes.
func execPod(b *bed) {
	p := pod("exec", sleeper)
	b.runner.Set(p)
	b.phase(p, v1.PodRunning)
	if out := b.run(p, "echo", "hi"); out != "hi\n" {
		b.t.Errorf("output %q", out)
	}
	ref, _ := b.runner.Container(p.UID, "main")
	for range 20 {
		out := &boundedBuffer{}
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		code, err := b.runner.Exec(ctx, ExecRequest{ID: ref.ID, Command: []string{"cat"}, In: strings.NewReader("input"), Out: out, Err: out})
		cancel()
		if code != 0 || err != nil || out.String() != "input" {
			b.t.Fatalf("cat: code %d, %v, %q", code, err, out.String())
		}
	}
	code, _, err := b.runner.execOutput(context.Background(), ref.ID, []string{"sh", "-c", "exit 9"}, waitLimit)
	if err != nil || code != 9 {
		b.t.Errorf("code %d, %v", code, err)
	}
	b.remove(p)
}
