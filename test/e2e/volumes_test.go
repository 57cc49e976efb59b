package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func claimManifest(names ...string) string {
	var all []string
	for _, name := range names {
		all = append(all, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: `+name+`}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}`)
	}
	return strings.Join(all, "\n---")
}

// volumeUser is a pod that runs a script with the claim at /data, and then waits.
func volumeUser(name, claim, script string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: ` + busyboxImage + `
    command: [sh, -ec, "` + script + `; sleep 100000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: ` + claim + `}}]
`
}

// boundVolume waits until a claim has its volume and returns its name.
func boundVolume(t *testing.T, namespace, claim string) string {
	t.Helper()
	var volume string
	eventually(t, "claim "+claim+" bound", func() error {
		c, err := client.CoreV1().PersistentVolumeClaims(namespace).Get(t.Context(), claim, metav1.GetOptions{})
		if err == nil && c.Status.Phase != corev1.ClaimBound {
			err = fmt.Errorf("it is %s", c.Status.Phase)
		}
		if err == nil {
			volume = c.Spec.VolumeName
		}
		return err
	})
	return volume
}

func volumeDir(volume string) string { return filepath.Join(daemon.DataDir, "volumes", volume) }

// volumeGone waits until neither object nor data of a volume is left.
func volumeGone(t *testing.T, volume string) {
	t.Helper()
	eventually(t, "volume "+volume+" gone", func() error {
		pv, err := client.CoreV1().PersistentVolumes().Get(t.Context(), volume, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is %s, %w", pv.Status.Phase, err)
		}
		if _, err := os.Lstat(volumeDir(volume)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("its directory is there: %w", err)
		}
		return nil
	})
}

func isReady(pod *corev1.Pod) bool { return ready(pod) }

// TestVolumesKeepDataAndFollowTheirClaims goes through the life of volumes
// that nobody made by hand.
func TestVolumesKeepDataAndFollowTheirClaims(t *testing.T) {
	ns := newNamespace(t)
	mentions(t, kubectl(t, "get", "storageclass"), "shoal-local (default)", "local.shoal.dev", "Delete", "WaitForFirstConsumer")

	apply(t, ns, claimManifest("kept", "crashed"))
	eventually(t, "event of a claim nobody uses", func() error {
		if text := kubectl(t, "describe", "pvc", "kept", "-n", ns); !strings.Contains(text, "WaitForFirstConsumer") {
			return errors.New(text)
		}
		return nil
	})

	apply(t, ns, volumeUser("writer", "kept", "echo precious > /data/file"))
	podWhen(t, ns, "writer", "ready", isReady)
	kept := boundVolume(t, ns, "kept")
	mentions(t, kubectl(t, "describe", "pvc", "kept", "-n", ns), "ProvisioningSucceeded", "Bound", "shoal-local")
	mentions(t, kubectl(t, "get", "pv", kept), "16Mi", "RWO", "Delete", "Bound", ns+"/kept")

	// The daemon dies in the middle of making a volume.
	apply(t, ns, volumeUser("crasher", "crashed", "echo after > /data/file"))
	restartDaemon(t, daemon.Kill)
	podWhen(t, ns, "crasher", "ready", isReady)
	crashed := boundVolume(t, ns, "crashed")
	podWhen(t, ns, "writer", "ready", isReady)

	// Another pod of the claim finds what the first one wrote.
	kubectl(t, "delete", "pod", "writer", "-n", ns)
	apply(t, ns, volumeUser("reader", "kept", "grep precious /data/file"))
	podWhen(t, ns, "reader", "ready", isReady)

	// Delete takes the data along, Retain leaves it.
	kubectl(t, "patch", "pv", crashed, "-p", `{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`)
	kubectl(t, "delete", "pod", "reader", "crasher", "-n", ns)
	kubectl(t, "delete", "pvc", "kept", "crashed", "-n", ns)
	volumeGone(t, kept)
	eventually(t, "volume released", func() error {
		pv, err := client.CoreV1().PersistentVolumes().Get(t.Context(), crashed, metav1.GetOptions{})
		if err == nil && pv.Status.Phase != corev1.VolumeReleased {
			err = fmt.Errorf("it is %s", pv.Status.Phase)
		}
		return err
	})
	kubectl(t, "delete", "pv", crashed)
	if text, err := os.ReadFile(filepath.Join(volumeDir(crashed), "file")); err != nil || string(text) != "after\n" {
		t.Errorf("retained data: %q, %v", text, err)
	}
	if err := os.RemoveAll(volumeDir(crashed)); err != nil {
		t.Error(err)
	}
}

// TestAVolumeThatVanishedIsNotMadeAnew: an empty directory in its place would
// look to the application like a loss it may initialize over.
func TestAVolumeThatVanishedIsNotMadeAnew(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, claimManifest("lost"))
	apply(t, ns, volumeUser("first", "lost", "touch /data/file"))
	podWhen(t, ns, "first", "ready", isReady)
	volume := boundVolume(t, ns, "lost")
	kubectl(t, "delete", "pod", "first", "-n", ns)
	if err := os.Rename(volumeDir(volume), volumeDir(volume)+"-away"); err != nil {
		t.Fatal(err)
	}
	apply(t, ns, volumeUser("second", "lost", "test -e /data/file"))
	eventually(t, "FailedMount", func() error {
		text := kubectl(t, "describe", "pod", "second", "-n", ns)
		if !strings.Contains(text, "FailedMount") || !strings.Contains(text, fmt.Sprintf("MountVolume.SetUp failed for volume %q : path %q does not exist", volume, volumeDir(volume))) {
			return errors.New(text)
		}
		return nil
	})
	if err := os.Rename(volumeDir(volume)+"-away", volumeDir(volume)); err != nil {
		t.Fatal(err)
	}
	podWhen(t, ns, "second", "ready", isReady)
}

// TestStatefulSetVolumes: each identity finds its own data again.
func TestStatefulSetVolumes(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Retain}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {fsGroup: 4242}
      containers:
      - name: main
        image: `+busyboxImage+`
        command: [sh, -ec, 'echo "$(hostname)" >> /data/names; stat -c %g /data > /data/group; sleep 100000']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 16Mi}}}
`)
	podsReady(t, ns, "app=db", 2)
	second := boundVolume(t, ns, "data-db-1")
	kubectl(t, "scale", "statefulset", "db", "-n", ns, "--replicas=1")
	eventually(t, "one pod", func() error {
		_, err := client.CoreV1().Pods(ns).Get(t.Context(), "db-1", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("db-1 is there: %w", err)
		}
		return nil
	})
	kubectl(t, "scale", "statefulset", "db", "-n", ns, "--replicas=2")
	podsReady(t, ns, "app=db", 2)
	eventually(t, "names of both lives", func() error {
		names, err := os.ReadFile(filepath.Join(volumeDir(second), "names"))
		if err == nil && string(names) != "db-1\ndb-1\n" {
			err = fmt.Errorf("%q", names)
		}
		return err
	})
	if group, err := os.ReadFile(filepath.Join(volumeDir(second), "group")); err != nil || string(group) != "4242\n" {
		t.Errorf("group of the volume: %q, %v", group, err)
	}
	first := boundVolume(t, ns, "data-db-0")
	kubectl(t, "delete", "statefulset", "db", "-n", ns)
	volumeGone(t, first)
	volumeGone(t, second)
}
