package cell

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// accessWithin bounds one command of a user.
const accessWithin = time.Minute

// cli runs a script on a peer, as its user does, with input, and gives all it
// wrote and its exit code.
func cli(t *testing.T, p *peer, input, script string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), accessWithin)
	defer cancel()
	var out bytes.Buffer
	cmd, err := cell.Exec(ctx, p.number, []string{"sh", "-c", script}, func(cmd *exec.Cmd) {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	})
	ok(t, err)
	_ = cmd.Wait()
	return out.String(), cmd.ProcessState.ExitCode()
}

// says runs a script and checks how it ends and that it says something.
func (p *peer) says(t *testing.T, input, script string, code int, want string) {
	t.Helper()
	if out, got := cli(t, p, input, script); got != code || !strings.Contains(out, want) {
		t.Errorf("%s: %s\nended with %d, want %d and %q:\n%s", p.name, script, got, code, want, out)
	}
}

// typing runs a command whose input stays open until it has written want as a
// line: without stdinOnce a client whose input ends has left.
func typing(command, want string) string {
	return `d=$(mktemp -d); mkfifo $d/in
		{ ` + command + ` <$d/in >$d/out 2>&1; echo $? >$d/code; } &
		exec 3>$d/in
		for i in $(seq 600); do grep -qx '` + want + `' $d/out && break; test -e $d/code && break; sleep 0.1; done
		exec 3>&-; wait; cat $d/out; code=$(cat $d/code); rm -r $d; exit $code`
}

// TestAccess is what users do with a pod of one host from another.
func TestAccess(t *testing.T) {
	whole(t)
	at, on := peers[1], peers[3]
	ns := space(t, at)
	now := int64(0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "box", Namespace: ns, Labels: map[string]string{"app": "box"}}, Spec: corev1.PodSpec{
		NodeName: on.name, TerminationGracePeriodSeconds: &now, Containers: []corev1.Container{hello()}}}
	_, err := at.kube.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	ok(t, err)
	at.runs(t, ns, "box", 1)
	sh := "shoal -n " + ns + " "
	run := func(input, script string, code int, want string) {
		t.Helper()
		at.says(t, input, script, code, want)
	}
	run("", sh+"exec box -- sh -c 'echo out; exit 7'", 7, "out")
	run("", sh+"exec box -- nosuch", 127, "executable file not found")
	run("text", sh+"exec -i box -- cat", 0, "text")
	run("", sh+"logs box", 0, "listening")
	run("", sh+"logs -l app=box --all-containers --prefix", 0, "[pod/box/hello] listening")
	run("", `set -e; d=$(mktemp -d); mkdir $d/in; head -c 20000000 /dev/urandom >$d/in/big; echo small >$d/in/small
		`+sh+`cp $d/in box:/tmp/dir; `+sh+`cp box:/tmp/dir $d/out; cmp $d/in/big $d/out/big; cat $d/out/small; rm -r $d`, 0, "small")
	run("", sh+`port-forward pod/box 18080:80 >/dev/null & p=$!; for i in $(seq 100); do busybox wget -qO- http://127.0.0.1:18080/ && break; sleep 0.1; done; kill $p`, 0, "box on "+on.name)
	debug := func(args, want string) {
		t.Helper()
		run("", typing(sh+"debug -i --image="+image+" --image-pull-policy=Never "+args, want), 0, "\n"+want+"\n")
	}
	debug("box --target=hello -- sh -c 'sleep 1; cat /proc/1/comm'", "hello")
	debug("box --copy-to=copy --share-processes -- sh -c 'sleep 1; cat /proc/1/comm'", "shoal-first")
	debug("node/lab-4 -- sh -c 'sleep 1; ls -d /host/proc/1; cat /proc/1/comm; echo on the host'", "on the host")
	run("", `k="kubectl --kubeconfig /var/lib/shoal/admin.kubeconfig -n `+ns+`"; which kubectl >/dev/null || { echo hello; exit; }
		echo hello | $k run filter -i --rm --restart=Never --image=`+image+` --image-pull-policy=Never -- cat`, 0, "hello\n")
	at.measure(t, ns)
	ok(t, at.kube.CoreV1().Pods(ns).Delete(t.Context(), "box", metav1.DeleteOptions{}))
	eventually(t, "box to be gone", func() error {
		if _, err := at.kube.CoreV1().Pods(ns).Get(t.Context(), "box", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	run("", sh+"exec box -- true", 1, "not found")
}

// measure times exec and a followed line through another peer than the pod's.
func (p *peer) measure(t *testing.T, ns string) {
	t.Helper()
	do := func(command ...string) {
		t.Helper()
		req := p.stream.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("box").SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{Command: command, Stdout: true}, scheme.ParameterCodec)
		executor, err := remotecommand.NewWebSocketExecutor(p.config, "GET", req.URL().String())
		ok(t, err)
		ok(t, executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &bytes.Buffer{}}))
	}
	const rounds = 10
	do("true")
	start := time.Now()
	for range rounds {
		do("true")
	}
	each := time.Since(start) / rounds
	t.Logf("exec through another peer takes %s", each)
	logs, err := p.stream.CoreV1().Pods(ns).GetLogs("box", &corev1.PodLogOptions{Follow: true, TailLines: new(int64)}).Stream(t.Context())
	ok(t, err)
	defer logs.Close()
	lines := bufio.NewReader(logs)
	var waited time.Duration
	for range rounds {
		do("sh", "-c", "echo line >/proc/1/fd/1")
		start := time.Now()
		_, err := lines.ReadString('\n')
		ok(t, err)
		waited += time.Since(start)
	}
	t.Logf("a line is shown by another peer %s after its writer's end", waited/rounds)
}
