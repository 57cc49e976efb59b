package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"shoal/agent/logwriter"
)

func (h *host) logs(client kubernetes.Interface, pod string, opts v1.PodLogOptions) (string, error) {
	stream, err := client.CoreV1().Pods("default").GetLogs(pod, &opts).Stream(context.Background())
	if err != nil {
		return "", err
	}
	defer stream.Close()
	data, err := io.ReadAll(stream)
	return string(data), err
}

// TestLogs: all that `kubectl logs` can ask for, of lines of any length.
func TestLogs(t *testing.T) {
	h := newHost(t, "logs", func(o *Options) { o.LogLimits = logwriter.Limits{MaxBytes: 32 << 20, MaxFiles: 2} })
	_, client := h.admin()
	h.create("lines", `echo one; echo two >&2; echo three; head -c 10485760 /dev/zero | busybox tr '\0' x; echo; echo last; `+sleeper)
	h.running("lines")
	number := func(n int64) *int64 { return &n }
	h.eventually("the last line", func() bool {
		out, err := h.logs(client, "lines", v1.PodLogOptions{TailLines: number(1)})
		return err == nil && out == "last\n"
	})
	out, err := h.logs(client, "lines", v1.PodLogOptions{})
	parts := strings.Split(out, "\n")
	if err != nil || len(parts) != 6 || len(parts[3]) != 10<<20 {
		t.Errorf("a long line: %v, %d lines, %d bytes", err, len(parts), len(out))
	}
	if out, err := h.logs(client, "lines", v1.PodLogOptions{LimitBytes: number(9)}); err != nil || len(out) != 9 {
		t.Errorf("9 bytes: %q, %v", out, err)
	}
	if out, err := h.logs(client, "lines", v1.PodLogOptions{SinceSeconds: number(3600), TailLines: number(1), Timestamps: true}); err != nil || !strings.HasSuffix(out, "Z last\n") {
		t.Errorf("since and with time: %q, %v", out, err)
	}
	if _, err := h.logs(client, "lines", v1.PodLogOptions{Previous: true}); err == nil || !strings.Contains(err.Error(), `previous terminated container "main" in pod "lines" not found`) {
		t.Errorf("previous of the first: %v", err)
	}
	h.followsFast(client)
	h.delete("lines")

	h.create("crash", `echo attempt; exit 1`)
	h.eventually("the back-off", func() bool {
		out, err := h.logs(client, "crash", v1.PodLogOptions{Previous: true})
		return err == nil && out == "attempt\n"
	})
	h.delete("crash")
}

// followsFast measures from a line written to shown.
func (h *host) followsFast(client kubernetes.Interface) {
	h.t.Helper()
	stream, err := client.CoreV1().Pods("default").GetLogs("lines", &v1.PodLogOptions{Follow: true, TailLines: new(int64)}).Stream(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	defer stream.Close()
	config, _ := h.admin()
	lines := bufio.NewReader(stream)
	say := func(line string) {
		h.t.Helper()
		if _, err := h.exec(config, client, "lines", nil, "sh", "-c", "echo "+line+" >/proc/1/fd/1"); err != nil {
			h.t.Error(err)
		}
	}
	// It shows what is written once it is there: how soon that is, is not said.
	there := make(chan string)
	go func() {
		line, _ := lines.ReadString('\n')
		there <- line
	}()
	greetings := 0
	h.eventually("the follower to be there", func() bool {
		say("here")
		greetings++
		select {
		case line := <-there:
			return line == "here\n"
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	const rounds = 5
	var sum time.Duration
	for i := range rounds {
		line := fmt.Sprintf("line %d\n", i)
		say(strings.TrimSpace(line))
		at := time.Now()
		got, err := lines.ReadString('\n')
		for ; err == nil && got == "here\n" && greetings > 1; greetings-- {
			got, err = lines.ReadString('\n')
		}
		if err != nil || got != line {
			h.t.Errorf("followed %q, %v", got, err)
			return
		}
		sum += time.Since(at)
	}
	h.t.Logf("a line is shown %s after its writer has ended", sum/rounds)
}

// TestLogRotation: the files of a container are bounded, and a follower sees
// every line through rotations. The writer waits for it at every half file, as one
// that is two files ahead of a follower leaves it behind, here as with a kubelet.
func TestLogRotation(t *testing.T) {
	h := newHost(t, "rotate", func(o *Options) { o.LogLimits = logwriter.Limits{MaxBytes: 200 << 10, MaxFiles: 20} })
	_, client := h.admin()
	const count, step = 5000, 1000
	h.create("many", fmt.Sprintf(`i=0; while [ $i -lt %d ]; do [ $((i%%%d)) = 0 ] && until stat /go-$i; do sleep 0.05; done >/dev/null 2>&1; echo "line $i of many that fill log files"; i=$((i+1)); done`, count, step))
	h.running("many")
	stream, err := client.CoreV1().Pods("default").GetLogs("many", &v1.PodLogOptions{Follow: true}).Stream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	config, _ := h.admin()
	lines, got := bufio.NewScanner(stream), 0
	for ; got < count; got++ {
		if got%step == 0 {
			if _, err := h.exec(config, client, "many", nil, "touch", fmt.Sprint("/go-", got)); err != nil {
				t.Fatal(err)
			}
		}
		if !lines.Scan() {
			break
		}
		if want := fmt.Sprintf("line %d of many that fill log files", got); lines.Text() != want {
			t.Fatalf("followed %q, want %q", lines.Text(), want)
		}
	}
	if got != count || lines.Scan() || lines.Err() != nil {
		t.Errorf("followed %d lines of %d, %v", got, count, lines.Err())
	}
	h.delete("many")
}
