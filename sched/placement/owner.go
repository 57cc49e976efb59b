package placement

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// owner is the controller of placed pods, with where they are: pods of one owner
// that wish nothing else are kept apart, by host and by zone.
type owner struct {
	uid    types.UID
	pods   int
	onSlot map[int]int32
	byZone []int32
}

// own notes the controller of a pod that is placed.
func (s *Snapshot) own(p *placed, pod *v1.Pod) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return
	}
	o := s.owners[ref.UID]
	if o == nil {
		o = &owner{uid: ref.UID, onSlot: map[int]int32{}}
		s.owners[ref.UID] = o
	}
	o.pods++
	p.owner = o
}

func (s *Snapshot) disown(p *placed) {
	if p.owner == nil {
		return
	}
	if p.owner.pods--; p.owner.pods == 0 {
		delete(s.owners, p.owner.uid)
	}
}

func (s *Snapshot) ownerOf(pod *v1.Pod) *owner {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		return s.owners[ref.UID]
	}
	return nil
}

func (o *owner) count(zones *topology, slot int, sign int32) {
	if o.onSlot[slot] += sign; o.onSlot[slot] == 0 {
		delete(o.onSlot, slot)
	}
	d := zones.domain(slot)
	if d == nowhere {
		return
	}
	for int(d) >= len(o.byZone) {
		o.byZone = append(o.byZone, 0)
	}
	o.byZone[d] += sign
}

func (o *owner) inZone(zones *topology, slot int) int32 {
	if d := zones.domain(slot); d != nowhere && int(d) < len(o.byZone) {
		return o.byZone[d]
	}
	return 0
}
