package sched

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"shoal/sched/internal/testpeer"
)

func withClaim(pod *v1.Pod, claim string) *v1.Pod {
	pod.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	return pod
}

func newClass(t testing.TB, name string) {
	t.Helper()
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "test.example", VolumeBindingMode: &mode}
	if _, err := peer.Client.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func newClaim(t testing.TB, ns, name, class string) {
	t.Helper()
	claim := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if _, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// selectedNode waits until the scheduler has chosen a node for a claim.
func selectedNode(t testing.TB, ns, name, node string) *v1.PersistentVolumeClaim {
	t.Helper()
	var claim *v1.PersistentVolumeClaim
	testpeer.Eventually(t, func() string {
		var err error
		if claim, err = peer.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		if got := claim.Annotations[volume.AnnSelectedNode]; got != node {
			return fmt.Sprintf("claim %s is for node %q", name, got)
		}
		return ""
	})
	return claim
}

// bindByHand does what the binder and a provisioner do.
func bindByHand(t testing.TB, claim *v1.PersistentVolumeClaim, node string) {
	t.Helper()
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + string(claim.UID)},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: "/none"}},
			Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:            claim.Spec.AccessModes, StorageClassName: *claim.Spec.StorageClassName,
			ClaimRef: &v1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
	if _, err := peer.Client.CoreV1().PersistentVolumes().Create(t.Context(), pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim.Spec.VolumeName = pv.Name
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBindCompleted, "yes")
	if _, err := peer.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestAPodWaitsForItsVolumeWhereItWillRun(t *testing.T) {
	ns := namespace(t)
	newClass(t, "waits")
	peer.Node(t, "holds", map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
	create(t, ns, withClaim(newPod("p", "holds", 2), "data"))
	awaitUnschedulable(t, ns, "p", `persistentvolumeclaim "data" not found.`)

	newClaim(t, ns, "data", "waits")
	claim := selectedNode(t, ns, "data", "holds")
	if node := get(t, ns, "p").Spec.NodeName; node != "" {
		t.Fatalf("the pod is on %s before it has its volume", node)
	}
	// The place is taken meanwhile.
	create(t, ns, newPod("other", "holds", 1))
	awaitUnschedulable(t, ns, "other", "Insufficient cpu")

	bindByHand(t, claim, "holds")
	awaitNode(t, ns, "p", "holds")
}

func TestAFailedVolumeHasThePodPlacedAnew(t *testing.T) {
	ns := namespace(t)
	newClass(t, "fails")
	peer.Node(t, "flaky", map[v1.ResourceName]string{"cpu": "2", "memory": "1Gi", "pods": "10"})
	newClaim(t, ns, "data", "fails")
	create(t, ns, withClaim(newPod("p", "flaky", 1), "data"))
	claim := selectedNode(t, ns, "data", "flaky")

	// A provisioner takes the choice back; the scheduler chooses again.
	before := claim.ResourceVersion
	delete(claim.Annotations, volume.AnnSelectedNode)
	if _, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	testpeer.Eventually(t, func() string {
		if claim = selectedNode(t, ns, "data", "flaky"); claim.ResourceVersion == before {
			return "the claim is as it was"
		}
		return ""
	})
	bindByHand(t, claim, "flaky")
	awaitNode(t, ns, "p", "flaky")
}

func TestAPodThatGoesWhileItWaitsLeavesItsPlace(t *testing.T) {
	ns := namespace(t)
	newClass(t, "never")
	peer.Node(t, "left", map[v1.ResourceName]string{"cpu": "1", "memory": "1Gi", "pods": "10"})
	newClaim(t, ns, "data", "never")
	create(t, ns, withClaim(newPod("p", "left", 1), "data"))
	selectedNode(t, ns, "data", "left")
	create(t, ns, newPod("next", "left", 1))
	awaitUnschedulable(t, ns, "next", "Insufficient cpu")
	if err := peer.Client.CoreV1().Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitNode(t, ns, "next", "left")
}
