package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"shoal/test/harness"
)

// TestRunAttached: `shoal run -i` is one pod with this program's input, output
// and exit code, and with --rm it goes.
func TestRunAttached(t *testing.T) {
	ns := newNamespace(t)
	run := daemon.Command("run", "box", "--namespace", ns, "--image", busyboxImage, "-i", "--rm", "--env", "WORD=said", "--command", "--", "sh")
	run.Stdin = strings.NewReader("echo $WORD; echo $(hostname); exit 3\n")
	result := run.Run(t.Context())
	if result.Code != 3 || !strings.Contains(result.Stdout, "said\nbox\n") {
		t.Errorf("it ended with %d and printed %q, %q", result.Code, result.Stdout, result.Stderr)
	}
	eventually(t, "the pod gone", func() error {
		_, err := client.CoreV1().Pods(ns).Get(t.Context(), "box", metav1.GetOptions{})
		if err == nil {
			return errors.New("it is there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})

	// Without --rm it stays, once, with its exit code.
	run = daemon.Command("run", "kept", "--namespace", ns, "--image", busyboxImage, "-i", "--command", "--", "sh")
	run.Stdin = strings.NewReader("exit 0\n")
	if result := run.Run(t.Context()); result.Err != nil {
		t.Error(result.Err)
	}
	kept := podWhen(t, ns, "kept", "has ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	if kept.Spec.RestartPolicy != corev1.RestartPolicyNever || kept.Labels["app"] != "kept" {
		t.Errorf("the pod is %+v", kept.ObjectMeta)
	}
}

// TestRunOnTerminal: with -t the container's terminal is this one.
func TestRunOnTerminal(t *testing.T) {
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip("no program to make a terminal: apt-get install bsdutils")
	}
	ns := newNamespace(t)
	line := fmt.Sprintf("%s run term --namespace %s --image %s -it --rm --command -- sh -c 'read x; test -t 0 && test -t 1 && echo a terminal heard $x; exit 4'", daemon.Binary, ns, busyboxImage)
	result := harness.Command{
		Argv: []string{script, "--quiet", "--return", "--command", line, "/dev/null"},
		Env:  []string{"KUBECONFIG=" + daemon.Kubeconfig()}, Stdin: strings.NewReader("me\n"),
	}.Run(t.Context())
	if result.Code != 4 || !strings.Contains(result.Stdout, "a terminal heard me") {
		t.Errorf("it ended with %d and printed %q, %q", result.Code, result.Stdout, result.Stderr)
	}
}

// TestExampleVolume: the example runs with an image that was loaded, as its
// README says.
func TestExampleVolume(t *testing.T) {
	ns := newNamespace(t)
	path := filepath.Join(t.TempDir(), "busybox.tar")
	if err := harness.WriteImage(t.Context(), path, "busybox:latest", "", "sh"); err != nil {
		t.Fatal(err)
	}
	shoal(t, "image", "load", path)
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	example := filepath.Join(root, "examples", "volume.yaml")
	kubectl(t, "apply", "--namespace", ns, "--filename", example)
	podWhen(t, ns, "notes-0", "is ready", ready)
	kubectl(t, "delete", "--namespace", ns, "--filename", example)
	eventually(t, "the claim gone", func() error {
		claims, err := client.CoreV1().PersistentVolumeClaims(ns).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(claims.Items) > 0 {
			err = fmt.Errorf("%d are left", len(claims.Items))
		}
		return err
	})
}
