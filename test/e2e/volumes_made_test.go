package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestVolumesMadeByHand binds claims to volumes of a class without a
// provisioner: one reserved for its claim, one that any claim may have, and one
// of a kind that is not there.
func TestVolumesMadeByHand(t *testing.T) {
	ns := newNamespace(t)
	shared := filepath.Join(world.Dir, "shared")
	if err := os.MkdirAll(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	node := strings.TrimSpace(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[0].metadata.labels.kubernetes\\.io/hostname}"))
	t.Cleanup(func() {
		afterTest("delete", "pv", "by-hand-local", "by-hand-host", "by-hand-nfs", "--ignore-not-found")
	})
	apply(t, ns, `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: by-hand}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: by-hand-local}
spec:
  storageClassName: by-hand
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Delete
  local: {path: `+shared+`}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [`+node+`]}]}]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: by-hand-host}
spec:
  storageClassName: ""
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Recycle
  hostPath: {path: `+shared+`, type: Directory}
  claimRef: {namespace: `+ns+`, name: reserved}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: by-hand-nfs}
spec:
  storageClassName: ""
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  nfs: {server: 127.0.0.1, path: /}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared}
spec: {storageClassName: by-hand, accessModes: [ReadWriteMany], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: reserved}
spec: {storageClassName: "", volumeName: by-hand-host, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: nfs}
spec: {storageClassName: "", volumeName: by-hand-nfs, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`)
	t.Cleanup(func() { afterTest("delete", "storageclass", "by-hand") })
	apply(t, ns, volumeUser("one", "shared", "echo one > /data/one"))
	apply(t, ns, volumeUser("two", "shared", "until test -e /data/one; do sleep 0.1; done"))
	apply(t, ns, volumeUser("three", "reserved", "until test -e /data/one; do sleep 0.1; done"))
	apply(t, ns, volumeUser("four", "nfs", "true"))
	for _, name := range []string{"one", "two", "three"} {
		podWhen(t, ns, name, "ready", isReady)
	}
	eventually(t, "nfs refused by name", func() error {
		text := kubectl(t, "describe", "pod", "four", "-n", ns)
		if !strings.Contains(text, "persistent volume by-hand-nfs: its source is not supported here") {
			return errors.New(text)
		}
		return nil
	})
	kubectl(t, "delete", "pod", "one", "two", "three", "four", "-n", ns)
	kubectl(t, "delete", "pvc", "shared", "reserved", "nfs", "-n", ns)
	for _, name := range []string{"by-hand-local", "by-hand-host"} {
		eventually(t, "volume "+name+" failed", func() error {
			pv, err := client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && pv.Status.Phase != corev1.VolumeFailed {
				err = fmt.Errorf("it is %s", pv.Status.Phase)
			}
			return err
		})
	}
	if _, err := os.Stat(filepath.Join(shared, "one")); err != nil {
		t.Errorf("data of a volume made by hand: %v", err)
	}
}

// TestEphemeralVolumesGoWithTheirPod: the claim is the pod's, and so is the data.
func TestEphemeralVolumesGoWithTheirPod(t *testing.T) {
	ns := newNamespace(t)
	apply(t, ns, `
apiVersion: v1
kind: Pod
metadata: {name: scratch}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: `+busyboxImage+`
    command: [sh, -ec, "touch /data/file; sleep 100000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}
`)
	podWhen(t, ns, "scratch", "ready", isReady)
	volume := boundVolume(t, ns, "scratch-data")
	kubectl(t, "delete", "pod", "scratch", "-n", ns)
	volumeGone(t, volume)
	if _, err := client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "scratch-data", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("its claim: %v", err)
	}
}
