package placement

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// storage is what placement knows about persistent storage.
type storage struct {
	claims  map[string]*v1.PersistentVolumeClaim // by claimKey
	volumes map[string]*v1.PersistentVolume
	byClass map[string]map[string]*v1.PersistentVolume // the same volumes
	classes map[string]*storagev1.StorageClass
	users   map[string]int // pods that have a node, by claimKey
	// counted are the provisioners whose room on a node is known; the value
	// tells whether a node that says nothing has none.
	counted    map[string]bool
	capacities map[string]*capacity // by the key they were set with
}

// capacity is what one provisioner can still make for one class on some nodes.
type capacity struct {
	class string
	nodes labels.Selector
	bytes int64
}

func newStorage() storage {
	return storage{
		claims:     map[string]*v1.PersistentVolumeClaim{},
		volumes:    map[string]*v1.PersistentVolume{},
		byClass:    map[string]map[string]*v1.PersistentVolume{},
		classes:    map[string]*storagev1.StorageClass{},
		users:      map[string]int{},
		counted:    map[string]bool{},
		capacities: map[string]*capacity{},
	}
}

func claimKey(namespace, name string) string { return namespace + "/" + name }

// SetClaim takes over a claim's state. The object is kept and must not be
// changed afterwards.
func (s *Snapshot) SetClaim(claim *v1.PersistentVolumeClaim) {
	s.storage.claims[claimKey(claim.Namespace, claim.Name)] = claim
}

// RemoveClaim forgets a claim.
func (s *Snapshot) RemoveClaim(namespace, name string) {
	delete(s.storage.claims, claimKey(namespace, name))
}

// SetVolume takes over a persistent volume's state. The object is kept and must
// not be changed afterwards.
func (s *Snapshot) SetVolume(pv *v1.PersistentVolume) {
	s.RemoveVolume(pv.Name)
	s.storage.volumes[pv.Name] = pv
	class := volume.GetPersistentVolumeClass(pv)
	if s.storage.byClass[class] == nil {
		s.storage.byClass[class] = map[string]*v1.PersistentVolume{}
	}
	s.storage.byClass[class][pv.Name] = pv
}

// RemoveVolume forgets a persistent volume.
func (s *Snapshot) RemoveVolume(name string) {
	pv, ok := s.storage.volumes[name]
	if !ok {
		return
	}
	delete(s.storage.volumes, name)
	class := volume.GetPersistentVolumeClass(pv)
	delete(s.storage.byClass[class], name)
	if len(s.storage.byClass[class]) == 0 {
		delete(s.storage.byClass, class)
	}
}

// SetClass takes over a storage class.
func (s *Snapshot) SetClass(class *storagev1.StorageClass) { s.storage.classes[class.Name] = class }

// RemoveClass forgets a storage class.
func (s *Snapshot) RemoveClass(name string) { delete(s.storage.classes, name) }

// CountRoom has the room for a provisioner's new volumes looked at. A node of
// which nothing is known has none if strict, and enough otherwise.
func (s *Snapshot) CountRoom(provisioner string, strict bool) {
	s.storage.counted[provisioner] = strict
}

// SetCapacity takes over what room there is; one with a selector that does not
// parse is forgotten.
func (s *Snapshot) SetCapacity(object *storagev1.CSIStorageCapacity) {
	key := claimKey(object.Namespace, object.Name)
	delete(s.storage.capacities, key)
	nodes, err := metav1.LabelSelectorAsSelector(object.NodeTopology)
	if err != nil {
		return
	}
	c := &capacity{class: object.StorageClassName, nodes: nodes}
	switch { // the largest single volume, where it is known, is more precise
	case object.MaximumVolumeSize != nil:
		c.bytes = object.MaximumVolumeSize.Value()
	case object.Capacity != nil:
		c.bytes = object.Capacity.Value()
	}
	s.storage.capacities[key] = c
}

// RemoveCapacity forgets what SetCapacity took over.
func (s *Snapshot) RemoveCapacity(namespace, name string) {
	delete(s.storage.capacities, claimKey(namespace, name))
}

// ClaimsOf names the claims behind a pod's volumes, nil for most pods.
func ClaimsOf(pod *v1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		if name := claimName(pod, &pod.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func claimName(pod *v1.Pod, v *v1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// use counts a pod that has a node among the users of its claims.
func (st *storage) use(p *placed, sign int) {
	for _, name := range p.claims {
		key := claimKey(p.kind.namespace, name)
		if st.users[key] += sign; st.users[key] == 0 {
			delete(st.users, key)
		}
	}
}

// volumesOf lists a class's volumes by name, so that equal snapshots choose
// the same among equals.
func (st *storage) volumesOf(class string) []*v1.PersistentVolume {
	byName := st.byClass[class]
	list := make([]*v1.PersistentVolume, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, byName[name])
	}
	return list
}

// Assume takes a placement's bindings for written: no other pod is promised the
// same volume, nor the same claim elsewhere. What the API server then says
// replaces it.
func (s *Snapshot) Assume(r Result) error {
	for _, b := range r.Volumes {
		if b.Volume == nil {
			claim := b.Claim.DeepCopy()
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, r.Node)
			s.SetClaim(claim)
			continue
		}
		pv, _, err := volume.GetBindVolumeToClaim(b.Volume, b.Claim)
		if err != nil {
			return err
		}
		s.SetVolume(pv)
	}
	return nil
}

// Claim returns what is known of a claim, nil when nothing is.
func (s *Snapshot) Claim(namespace, name string) *v1.PersistentVolumeClaim {
	return s.storage.claims[claimKey(namespace, name)]
}

// VolumeFits tells whether a volume can be used on a node; both must be known.
func (s *Snapshot) VolumeFits(name, node string) (fits, known bool) {
	pv := s.storage.volumes[name]
	slot, ok := s.bySlot[node]
	if pv == nil || !ok || s.nodes[slot].object == nil {
		return false, false
	}
	return volume.CheckNodeAffinity(pv, s.nodes[slot].object.Labels) == nil, true
}
