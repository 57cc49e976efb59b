package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeMapsUsers skips the test where the node says that its kernel or runtime
// cannot give pods user namespaces.
func nodeMapsUsers(t *testing.T) {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(t.Context(), daemon.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, handler := range node.Status.RuntimeHandlers {
		if handler.Name == "" && handler.Features != nil && handler.Features.UserNamespaces != nil && *handler.Features.UserNamespaces {
			return
		}
	}
	t.Skipf("the node has no user namespaces for pods: %+v", node.Status.RuntimeHandlers)
}

// TestPodWithoutHostUsers: root in a pod with hostUsers: false is nobody outside,
// and its volume's files belong to whom they seem to inside.
func TestPodWithoutHostUsers(t *testing.T) {
	nodeMapsUsers(t)
	ns := newNamespace(t)
	apply(t, ns, pod("mapped", `
  hostUsers: false
  volumes:
  - {name: data, emptyDir: {}}
  containers:
  - name: main
    image: `+busyboxImage+`
    command: [sh, -c, "echo hello > /data/file && chown 1000:2000 /data/file && echo root > /data/roots && sleep 3600"]
    readinessProbe: {exec: {command: [test, -s, /data/roots]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
`))
	mapped := podWhen(t, ns, "mapped", "is ready", ready)
	inside := kubectl(t, "exec", "--namespace", ns, "mapped", "--", "sh", "-c", "id -u; stat -c '%u:%g' /data/file /data/roots")
	if inside != "0\n1000:2000\n0:0\n" {
		t.Errorf("inside, the user and the owners are %q", inside)
	}

	proc := filepath.Join("/proc", fmt.Sprint(containerPid(t, container(mapped).ContainerID)))
	var process unix.Stat_t
	if err := unix.Stat(proc, &process); err != nil {
		t.Fatal(err)
	}
	users, err := os.ReadFile(filepath.Join(proc, "uid_map"))
	if err != nil {
		t.Fatal(err)
	}
	if words := strings.Fields(string(users)); process.Uid == 0 || len(words) != 3 || words[0] != "0" || words[1] != fmt.Sprint(process.Uid) {
		t.Errorf("on the host the process is user %d's, and its map %q", process.Uid, users)
	}
	data := filepath.Join(daemon.DataDir, "agent", "pods", string(mapped.UID), "volumes", "kubernetes.io~empty-dir", "data")
	for name, owner := range map[string][2]uint32{"file": {1000, 2000}, "roots": {0, 0}} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(data, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != owner[0] || st.Gid != owner[1] {
			t.Errorf("on the host %s belongs to %d:%d, and has to belong to %v", name, st.Uid, st.Gid, owner)
		}
	}

	// The same pod with the host's users, to see that the difference is made by the field.
	apply(t, ns, pod("plain", `
  containers:
  - {name: main, image: `+busyboxImage+`, command: [sleep, "3600"]}
`))
	plain := podWhen(t, ns, "plain", "is ready", ready)
	if err := unix.Stat(filepath.Join("/proc", fmt.Sprint(containerPid(t, container(plain).ContainerID))), &process); err != nil || process.Uid != 0 {
		t.Errorf("on the host the other pod's process is user %d's: %v", process.Uid, err)
	}
}
