package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
)

// VolumeBinding is what must be written before a pod may go to the node chosen
// for it.
type VolumeBinding struct {
	Claim *v1.PersistentVolumeClaim
	// Volume is to be given to the claim; when nil, one is to be made for it on
	// the node.
	Volume *v1.PersistentVolume
}

// claimView is what a pod's claims mean for each node: computed once per
// placement, then asked per node.
type claimView struct {
	storage *storage
	bound   []*v1.PersistentVolume
	gone    bool // a claim is bound to a volume that is not there
	// exclusive are the keys of claims that are for one pod at a time.
	exclusive []string
	// unbound wait for their first consumer; candidates has the volumes of
	// their classes.
	unbound    []*v1.PersistentVolumeClaim
	candidates map[string][]*v1.PersistentVolume
}

// viewClaims returns nil for a pod without claims. A cause says why no node
// will do before one was looked at, in the words of upstream's VolumeBinding
// plug-in.
func (s *Snapshot) viewClaims(pod *v1.Pod) (view *claimView, cause string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name := claimName(pod, v)
		if name == "" {
			continue
		}
		claim, cause := s.usableClaim(pod, v, name)
		if cause != "" {
			return nil, cause
		}
		if view == nil {
			view = &claimView{storage: &s.storage}
		}
		if cause := view.add(claim); cause != "" {
			return nil, cause
		}
	}
	if view != nil {
		view.prepare()
	}
	return view, ""
}

func (s *Snapshot) usableClaim(pod *v1.Pod, v *v1.Volume, name string) (claim *v1.PersistentVolumeClaim, cause string) {
	claim = s.storage.claims[claimKey(pod.Namespace, name)]
	switch {
	case claim == nil && v.Ephemeral != nil:
		return nil, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case claim == nil:
		return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
	case claim.Status.Phase == v1.ClaimLost:
		return nil, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, err.Error()
		}
	}
	return claim, ""
}

// Bound reports whether a claim has its volume for good.
func Bound(claim *v1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

func (v *claimView) add(claim *v1.PersistentVolumeClaim) (cause string) {
	if slices.Contains(claim.Spec.AccessModes, v1.ReadWriteOncePod) {
		v.exclusive = append(v.exclusive, claimKey(claim.Namespace, claim.Name))
	}
	if Bound(claim) {
		pv := v.storage.volumes[claim.Spec.VolumeName]
		if pv == nil {
			v.gone = true
			return ""
		}
		v.bound = append(v.bound, pv)
		return ""
	}
	class := v.storage.classes[volume.GetPersistentVolumeClaimClass(claim)]
	delayed := class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if !delayed || claim.Spec.VolumeName != "" {
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	v.unbound = append(v.unbound, claim)
	return ""
}

// prepare puts small claims first, so that each gets the smallest volume that
// is enough.
func (v *claimView) prepare() {
	if len(v.unbound) == 0 {
		return
	}
	slices.SortStableFunc(v.unbound, func(a, b *v1.PersistentVolumeClaim) int {
		size := requested(a)
		other := requested(b)
		return cmp.Or(cmp.Compare(size, other), cmp.Compare(a.Name, b.Name))
	})
	v.candidates = map[string][]*v1.PersistentVolume{}
	for _, claim := range v.unbound {
		class := volume.GetPersistentVolumeClaimClass(claim)
		if _, known := v.candidates[class]; !known {
			v.candidates[class] = v.storage.volumesOf(class)
		}
	}
}

func requested(claim *v1.PersistentVolumeClaim) int64 {
	size := claim.Spec.Resources.Requests[v1.ResourceStorage]
	return size.Value()
}

// check is the filter of one node.
func (v *claimView) check(node *v1.Node) filter {
	for _, key := range v.exclusive {
		if v.storage.users[key] > 0 {
			return failedClaimInUse
		}
	}
	if v.gone {
		return failedVolumeGone
	}
	for _, pv := range v.bound {
		if volume.CheckNodeAffinity(pv, node.Labels) != nil {
			return failedVolumeAffinity
		}
		if !inZone(pv, node.Labels) {
			return failedVolumeZone
		}
	}
	if len(v.unbound) == 0 {
		return passed
	}
	_, failed := v.bind(node)
	return failed
}

// zoneLabels say in which zone and region a node or a volume is, the old names
// of volumes with the nodes' new ones.
var zoneLabels = [...]struct{ volume, node string }{
	{v1.LabelTopologyZone, v1.LabelTopologyZone},
	{v1.LabelTopologyRegion, v1.LabelTopologyRegion},
	{v1.LabelFailureDomainBetaZone, v1.LabelTopologyZone},
	{v1.LabelFailureDomainBetaRegion, v1.LabelTopologyRegion},
}

// inZone holds a volume to the zones and regions its labels name, of which
// there may be several in one label. A node that is in none will do, as where
// there is only one.
func inZone(pv *v1.PersistentVolume, node map[string]string) bool {
	if len(pv.Labels) == 0 || node[v1.LabelTopologyZone] == "" && node[v1.LabelTopologyRegion] == "" {
		return true
	}
	const separator = "__"
	for _, key := range zoneLabels {
		value, limited := pv.Labels[key.volume]
		if limited && !slices.Contains(strings.Split(value, separator), node[key.node]) {
			return false
		}
	}
	return true
}

// bind gives each unbound claim a volume that can be used on the node, or has
// one made there.
func (v *claimView) bind(node *v1.Node) ([]VolumeBinding, filter) {
	bindings := make([]VolumeBinding, 0, len(v.unbound))
	taken := map[string]*v1.PersistentVolume{}
	var bytes map[string]int64 // promised to earlier claims, by class
	for _, claim := range v.unbound {
		class := volume.GetPersistentVolumeClaimClass(claim)
		selected, chosen := claim.Annotations[volume.AnnSelectedNode]
		if chosen && selected != node.Name {
			return nil, failedVolumeBinding
		}
		if !chosen {
			const attributesClasses = true // in Kubernetes since 1.34 for good
			pv, err := volume.FindMatchingVolume(claim, v.candidates[class], node, taken, true, attributesClasses)
			if err != nil {
				return nil, failedVolumeBinding
			}
			if pv != nil {
				taken[pv.Name] = pv
				bindings = append(bindings, VolumeBinding{claim, pv})
				continue
			}
		}
		if failed := v.storage.makes(class, node, requested(claim)+bytes[class]); failed != passed {
			return nil, failed
		}
		if bytes == nil {
			bytes = map[string]int64{}
		}
		bytes[class] += requested(claim)
		bindings = append(bindings, VolumeBinding{Claim: claim})
	}
	return bindings, passed
}

// makes tells whether a volume of the class and size can be made on the node.
func (st *storage) makes(name string, node *v1.Node, bytes int64) filter {
	class := st.classes[name]
	if class.Provisioner == "" || class.Provisioner == volume.NotSupportedProvisioner {
		return failedVolumeBinding
	}
	if !v1helper.MatchTopologySelectorTerms(class.AllowedTopologies, labels.Set(node.Labels)) {
		return failedVolumeBinding
	}
	strict, counted := st.counted[class.Provisioner]
	if !counted || bytes == 0 || st.hasRoom(name, node, bytes, strict) {
		return passed
	}
	return failedVolumeSpace
}

func (st *storage) hasRoom(class string, node *v1.Node, bytes int64, strict bool) bool {
	known := false
	for _, c := range st.capacities {
		if c.class != class || !c.nodes.Matches(labels.Set(node.Labels)) {
			continue
		}
		if c.bytes >= bytes {
			return true
		}
		known = true
	}
	return !known && !strict
}
