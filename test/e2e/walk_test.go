package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"shoal/test/harness"
)

// helloArchive builds the image of examples/hello.
func helloArchive(t *testing.T) string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	program, archive := filepath.Join(t.TempDir(), "hello"), filepath.Join(t.TempDir(), "hello.tar")
	build := harness.Command{
		Argv: []string{"go", "-C", root, "build", "-o", program, "./examples/hello"},
		Env:  []string{"CGO_ENABLED=0"},
	}
	if result := build.Run(t.Context()); result.Err != nil {
		t.Fatal(result.Err)
	}
	if err := harness.WriteImage(t.Context(), archive, "hello:latest", program, ""); err != nil {
		t.Fatal(err)
	}
	return archive
}

// TestWalk is the walk of the README with shoal's own commands.
func TestWalk(t *testing.T) {
	ns := newNamespace(t)
	in := func(args ...string) []string { return append([]string{args[0], "--namespace", ns}, args[1:]...) }

	mentions(t, shoal(t, "get", "nodes"), "NAME", "STATUS", "ROLES", "AGE", "VERSION", daemon.Name)
	shoal(t, "image", "load", helloArchive(t))
	mentions(t, shoal(t, "image", "ls"), "hello")
	mentions(t, shoal(t, in("run", "hw", "--image=hello", "--port=80")...), "deployment.apps/hw created")
	shoal(t, in("rollout", "status", "deployment/hw", "--timeout=90s")...)
	mentions(t, shoal(t, in("get", "deployments")...), "hw", "1/1")
	mentions(t, shoal(t, in("get", "rs")...), "DESIRED", "hw-")
	mentions(t, shoal(t, in("get", "pods")...), "RESTARTS", "hw-", "Running")
	mentions(t, shoal(t, in("expose", "deployment", "hw", "--type=NodePort")...), "service/hw exposed")
	mentions(t, shoal(t, in("get", "services")...), "CLUSTER-IP", "NodePort", "80:3")

	address := strings.TrimSpace(shoal(t, in("service", "hw", "--url")...))
	if _, err := url.Parse(address); err != nil || !strings.HasPrefix(address, "http://") {
		t.Fatalf("service --url printed %q", address)
	}
	var page string
	eventually(t, "the page", func() (err error) {
		page, err = fetch(t.Context(), address)
		return err
	})
	mentions(t, page, "Hello", "hw-")

	mentions(t, shoal(t, in("scale", "deployment", "hw", "--replicas=3")...), "scaled")
	pods := podsReady(t, ns, "app=hw", 3)
	mentions(t, followLog(t, in("logs", "deploy/hw", "--follow")...), "listening")
	if got := shoal(t, in("exec", pods[0].Name, "--", "sh", "-c", "hostname")...); got != pods[0].Name+"\n" {
		t.Errorf("exec printed %q", got)
	}
	mentions(t, shoal(t, in("delete", "service,deployment", "hw")...), "deleted")
	podsReady(t, ns, "app=hw", 0)
}

func fetch(ctx context.Context, address string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	// Each page over a connection of its own, so that each is balanced anew.
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", address, response.Status)
	}
	return string(page), err
}

// followLog starts a command that follows a log and returns its first line.
func followLog(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleWithin)
	defer cancel()
	command := daemon.Command(args...)
	cmd := exec.CommandContext(ctx, command.Argv[0], command.Argv[1:]...)
	cmd.Env = append(os.Environ(), command.Env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Errorf("%v: %v", args, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return line
}

// TestImagePull pulls an image by name from a registry on this host.
func TestImagePull(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	image, err := tarball.ImageFromPath(helloArchive(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.PushImage(t.Context(), server.URL+"/v2/team/hello", "v1", image); err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(server.URL, "http://") + "/team/hello:v1"
	shoal(t, "image", "pull", name)
	mentions(t, shoal(t, "image", "ls"), "team/hello")
	shoal(t, "image", "rm", name)
	if listed := shoal(t, "image", "ls"); strings.Contains(listed, "team/hello") {
		t.Errorf("the image is still listed:\n%s", listed)
	}

	ns := newNamespace(t)
	apply(t, ns, pod("pulled", `
  containers:
  - {name: main, image: "`+name+`"}
`))
	podWhen(t, ns, "pulled", "runs", ready)
	mentions(t, kubectl(t, "describe", "pod", "pulled", "--namespace", ns), "Pulling", "Pulled")
}

// TestWatchOutput follows a list with -w until a change appears.
func TestWatchOutput(t *testing.T) {
	ns := newNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), settleWithin)
	defer cancel()
	command := daemon.Command("get", "configmaps", "--namespace", ns, "--watch", "--output", "name")
	cmd := exec.CommandContext(ctx, command.Argv[0], command.Argv[1:]...)
	cmd.Env = append(os.Environ(), command.Env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	kubectl(t, "create", "configmap", "appears", "--namespace", ns)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "configmap/appears" {
			return
		}
	}
	t.Errorf("the watch ended without it: %v", lines.Err())
}
