package placement

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
)

type claimArgument struct {
	NS, Class, Size, Owner string
	Modes                  []v1.PersistentVolumeAccessMode
	// Bound names the volume it is bound to, Asks one it asks for; Selected is
	// the node chosen for it.
	Bound, Asks, Selected string
	Lost, Leaving         bool
	Selector              map[string]string
}

type volumeArgument struct {
	Class, Size, Node, Claim string
	Modes                    []v1.PersistentVolumeAccessMode
	Labels                   map[string]string
	Phase                    v1.PersistentVolumePhase
}

type classArgument struct {
	Provisioner string
	Immediate   bool
	Zones       []string
}

type roomArgument struct {
	Class, Node, Free string
	Strict            string // instead of all others: a provisioner that must say
	Loose             string
}

func storeScripted(t *testing.T, s *Snapshot, verb, name string, parse func(any)) {
	t.Helper()
	switch verb {
	case "claim":
		var a claimArgument
		parse(&a)
		s.SetClaim(a.claim(name))
	case "no-claim":
		s.RemoveClaim("default", name)
	case "volume":
		var a volumeArgument
		parse(&a)
		s.SetVolume(a.volume(name))
	case "no-volume":
		s.RemoveVolume(name)
	case "class":
		var a classArgument
		parse(&a)
		s.SetClass(a.class(name))
	case "room":
		var a roomArgument
		parse(&a)
		a.apply(s, name)
	}
}

func (a claimArgument) claim(name string) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: a.NS, Name: name, UID: types.UID("uid-" + name), Annotations: map[string]string{}},
		Spec: v1.PersistentVolumeClaimSpec{
			StorageClassName: &a.Class, AccessModes: a.Modes, VolumeName: a.Bound + a.Asks,
			Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: quantity(orElse(a.Size, "1Gi"))}},
		},
	}
	if c.Namespace == "" {
		c.Namespace = "default"
	}
	if a.Bound != "" {
		c.Annotations[volume.AnnBindCompleted] = "yes"
	}
	if a.Selected != "" {
		c.Annotations[volume.AnnSelectedNode] = a.Selected
	}
	if a.Selector != nil {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: a.Selector}
	}
	if a.Lost {
		c.Status.Phase = v1.ClaimLost
	}
	if a.Leaving {
		c.DeletionTimestamp = &metav1.Time{}
	}
	if a.Owner != "" {
		controller := true
		c.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: a.Owner, UID: types.UID(a.Owner), Controller: &controller}}
	}
	return c
}

func (a volumeArgument) volume(name string) *v1.PersistentVolume {
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: a.Labels},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: a.Class, AccessModes: a.Modes,
			Capacity: v1.ResourceList{v1.ResourceStorage: quantity(orElse(a.Size, "1Gi"))},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable},
	}
	if a.Phase != "" {
		pv.Status.Phase = a.Phase
	}
	if a.Node != "" {
		pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{a.Node}}},
		}}}}
	}
	if a.Claim != "" {
		pv.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: a.Claim}
	}
	return pv
}

func (a classArgument) class(name string) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	if a.Immediate {
		mode = storagev1.VolumeBindingImmediate
	}
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: a.Provisioner, VolumeBindingMode: &mode}
	if a.Zones != nil {
		c.AllowedTopologies = []v1.TopologySelectorTerm{{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{{Key: v1.LabelTopologyZone, Values: a.Zones}}}}
	}
	return c
}

func (a roomArgument) apply(s *Snapshot, name string) {
	switch {
	case a.Strict != "":
		s.CountRoom(a.Strict, true)
	case a.Loose != "":
		s.CountRoom(a.Loose, false)
	case a.Free == "":
		s.RemoveCapacity("kube-system", name)
	default:
		free := quantity(a.Free)
		s.SetCapacity(&storagev1.CSIStorageCapacity{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, StorageClassName: a.Class, Capacity: &free,
			NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{v1.LabelHostname: a.Node}},
		})
	}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
