package static

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

const good = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: kube-system}
spec: {hostNetwork: true, containers: [{name: c, image: "box:1"}]}
`

func TestDecode(t *testing.T) {
	pod, err := Decode([]byte(good), "/m/web.yaml", "host1")
	if err != nil {
		t.Fatal(err)
	}
	if pod.Name != "web-host1" || pod.Namespace != "kube-system" || pod.Spec.NodeName != "host1" || len(pod.UID) != 32 ||
		pod.Annotations["kubernetes.io/config.hash"] != string(pod.UID) || pod.Annotations["kubernetes.io/config.source"] != "file" {
		t.Errorf("pod: %+v", pod)
	}
	if pod.Spec.RestartPolicy != v1.RestartPolicyAlways || *pod.Spec.TerminationGracePeriodSeconds != 30 || pod.Spec.Tolerations[0].Effect != v1.TaintEffectNoExecute {
		t.Errorf("defaults: %+v", pod.Spec)
	}
	again, _ := Decode([]byte(good), "/m/web.yaml", "host1")
	changed, _ := Decode([]byte(strings.Replace(good, "box:1", "box:2", 1)), "/m/web.yaml", "host1")
	if again.UID != pod.UID || changed.UID == pod.UID {
		t.Errorf("uids: %s, again %s, changed %s", pod.UID, again.UID, changed.UID)
	}
	for name, test := range map[string]struct{ text, says string }{
		"nothing":            {"", "Kind"},
		"no yaml":            {"a: b: c", "mapping"},
		"no pod":             {"apiVersion: v1\nkind: Service\nmetadata: {name: x}\n", "Service"},
		"no name":            {"apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: x}]}\n", "name is needed"},
		"no container":       {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", "spec.containers"},
		"one name twice":     {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: x}, {name: c, image: x}]}\n", "Duplicate"},
		"a secret":           {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: x}], volumes: [{name: v, secret: {secretName: s}}]}\n", "secrets"},
		"an account":         {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {serviceAccountName: a, containers: [{name: c, image: x}]}\n", "serviceaccounts"},
		"an unknown kind":    {"apiVersion: v9\nkind: Pod\n", "v9"},
		"a uid":              {"apiVersion: v1\nkind: Pod\nmetadata: {name: x, uid: ../../x}\nspec: {containers: [{name: c, image: x}]}\n", "metadata.uid"},
		"a name too strange": {"apiVersion: v1\nkind: Pod\nmetadata: {name: ../x}\nspec: {containers: [{name: c, image: x}]}\n", "metadata.name"},
	} {
		if _, err := Decode([]byte(test.text), "f", "n"); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want it to say %q", name, err, test.says)
		}
	}
}

// TestDecodeQuotesNothing: what is wrong with a file is told to all who may read
// Events, and what is in it is not.
func TestDecodeQuotesNothing(t *testing.T) {
	const hush = "hunter2"
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: x, %}]}\n"
	in := func(text string) string { return strings.Replace(pod, "%", text, 1) }
	for name, test := range map[string]struct{ text, says string }{
		"no kind":          {"password: " + hush, "Kind"},
		"no version":       {"kind: Pod\npassword: " + hush, "apiVersion"},
		"half of it":       {"password: \"" + hush, "yaml: "},
		"an anchor":        {"a: *" + hush, "yaml: unknown anchor"},
		"a strange key":    {"? {a: " + hush + "}\n: " + hush, "yaml: invalid map key"},
		"a plain value":    {hush, ""},
		"text for number":  {in("ports: [{containerPort: " + hush + "}]"), "containerPort is no int32"},
		"text for a list":  {in("env: " + hush), "env"},
		"a bad quantity":   {in("resources: {limits: {memory: " + hush + "}}"), "wrong form"},
		"a bad policy":     {in("imagePullPolicy: " + hush), "spec.containers[0].imagePullPolicy: Unsupported value: supported values: "},
		"a bad env":        {in("env: [{name: \"" + hush + "=\", value: x}]"), "spec.containers[0].env[0].name: Invalid value: "},
		"a missing volume": {in("volumeMounts: [{name: " + hush + ", mountPath: /x}]"), "spec.containers[0].volumeMounts[0].name: Not found"},
		"two values":       {in("env: [{name: A, value: " + hush + ", valueFrom: {fieldRef: {fieldPath: " + hush + "}}}]"), "spec.containers[0].env[0].valueFrom"},
	} {
		_, err := Decode([]byte(test.text), "f", "n")
		if err == nil || strings.Contains(err.Error(), hush) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want it to say %q and quote nothing", name, err, test.says)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, data []byte) {
		if pod, err := Decode(data, "f", "n"); err == nil && pod.Name == "" {
			t.Error("a pod without a name")
		}
	})
}

// TestDir changes a directory as people and programs do.
func TestDir(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var bad []string
	d := &Dir{Path: dir, Node: "n", Bad: func(file string, err error) { bad = append(bad, filepath.Base(file)+": "+err.Error()) }}
	names := func(pods []*v1.Pod) []string {
		var out []string
		for _, p := range pods {
			out = append(out, p.Name+" "+p.Spec.Containers[0].Image)
		}
		slices.Sort(out)
		return out
	}
	expect := func(what string, want ...string) {
		t.Helper()
		if got := names(d.Load()); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q (bad: %q)", what, got, want, bad)
		}
	}
	expect("an empty directory")
	write("a.yaml", good)
	write(".hidden", good)
	write("broken", "{")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	expect("a good one and a broken one", "web-n box:1")
	expect("again", "web-n box:1")
	if len(bad) != 1 || !strings.HasPrefix(bad[0], "broken: ") {
		t.Errorf("told: %q", bad)
	}
	write("a.yaml", "")
	expect("half-written: the pod stays", "web-n box:1")
	write("a.yaml", strings.Replace(good, "box:1", "box:2", 1))
	expect("changed", "web-n box:2")
	write("b.yaml", good)
	expect("the same name in another file", "web-n box:2")
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, maxManifest+1), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("one too large", "web-n box:2")
	if last := bad[len(bad)-1]; !strings.Contains(last, "larger than") {
		t.Errorf("told last: %q", last)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "endless")); err != nil {
		t.Fatal(err)
	}
	expect("a link to a device", "web-n box:2")
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	expect("all gone")
}

// TestDirIsFollowed: through inotify, also when the directory goes and comes.
func TestDirIsFollowed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &Dir{Path: dir, Node: "n"}
	ctx, cancel := context.WithCancel(t.Context())
	counts := make(chan int, 100)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, func(pods []*v1.Pod) { counts <- len(pods) }) }()
	await := func(what string, want int) {
		t.Helper()
		for end := time.After(30 * time.Second); ; {
			select {
			case n := <-counts:
				if n == want {
					return
				}
			case <-end:
				t.Fatalf("waited for %s", what)
			}
		}
	}
	await("the first reading", 0)
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	await("a file", 1)
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, ".a")); err != nil {
		t.Fatal(err)
	}
	await("a file hidden", 0)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
