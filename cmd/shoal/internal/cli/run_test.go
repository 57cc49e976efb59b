package cli

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

func TestContainerName(t *testing.T) {
	tests := map[string]string{
		"hello":                          "hello",
		"hello:latest":                   "hello",
		"registry.example:5000/a/web:v2": "web",
		"registry.example:5000/a/web":    "web",
		"web@sha256:0123":                "web",
		"team/Hello_App.x":               "hello-app-x",
		"_":                              "main",
		"":                               "main",
	}
	for image, want := range tests {
		got := containerName(image)
		if got != want {
			t.Errorf("containerName(%q) = %q, want %q", image, got, want)
		}
		if problems := validation.IsDNS1123Label(got); problems != nil {
			t.Errorf("containerName(%q) = %q is not a valid name: %v", image, got, problems)
		}
	}
}

// TestPodArgs: what --stdin makes of the flags, and which it refuses.
func TestPodArgs(t *testing.T) {
	whole := RunCmd{
		Name: "box", Image: "busybox", Replicas: 1, DryRun: "none", ImagePullPolicy: "IfNotPresent", Stdin: true, TTY: true, Rm: true,
		Port: 80, Env: []string{"A=b,c", "D="}, Labels: []string{"tier=web"}, Command: true, Args: []string{"sh", "--", "-c"},
	}
	want := strings.Fields("box --stdin --image=busybox --labels=app=box,tier=web --image-pull-policy=IfNotPresent --restart=Never" +
		" --tty=true --rm=true --command=true --env=A=b,c --env=D= --port=80 -- sh -- -c")
	if got, err := whole.podArgs(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for says, change := range map[string]func(*RunCmd){
		"add --stdin":   func(r *RunCmd) { r.Stdin = false },
		"--replicas":    func(r *RunCmd) { r.Replicas = 2 },
		"--dry-run":     func(r *RunCmd) { r.DryRun = "client" },
		"--output":      func(r *RunCmd) { r.Output = "json" },
		"invalid label": func(r *RunCmd) { r.Labels = []string{"app=other"} },
	} {
		bad := whole
		change(&bad)
		if _, err := bad.podArgs(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want it to say %q", err, says)
		}
	}
}
