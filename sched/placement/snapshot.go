package placement

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Snapshot is what placement knows about the fleet.
type Snapshot struct {
	// rows and nodes are indexed by slot. A slot belongs to a name from the
	// first node or pod that mentions it until neither is left.
	rows   []row
	nodes  []*node
	bySlot map[string]int
	free   []int
	// ring holds the slots with a real node in the order of their names'
	// hashes: searches walk it, so that their order does not depend on history.
	ring []ringEntry

	pods        map[types.UID]*placed
	byNamespace map[string]map[types.UID]*placed
	exclusive   map[types.UID]*placed // pods with required anti-affinity
	namespaces  map[string]map[string]string
	storage     storage

	classes    map[string]*class
	generation uint32
	key        []byte // scratch of classOf
	feasible   []int  // scratch of Place
}

// node is what is known about a node beside its row.
type node struct {
	name       string
	object     *v1.Node // nil while only pods mention the name
	generation uint32   // changes whenever a cached verdict about it expires
	stock      stock
	ports      portUse
	owners     map[types.UID]int32 // pods here by controlling owner
	pods       int
}

// placed is a pod that occupies a node.
type placed struct {
	uid       types.UID
	slot      int
	demand    *demand
	namespace string
	labels    map[string]string
	owner     types.UID
	peers     *peerTerms
	claims    []string
	leaving   bool
}

// NewSnapshot returns a snapshot of an empty fleet.
func NewSnapshot() *Snapshot {
	return &Snapshot{
		bySlot:      map[string]int{},
		pods:        map[types.UID]*placed{},
		byNamespace: map[string]map[types.UID]*placed{},
		exclusive:   map[types.UID]*placed{},
		namespaces:  map[string]map[string]string{},
		classes:     map[string]*class{},
		storage:     newStorage(),
	}
}

// Nodes is the number of nodes pods can be compared with.
func (s *Snapshot) Nodes() int { return len(s.ring) }

// SetNode adds a node or takes over its new state. The object is kept and must
// not be changed afterwards.
func (s *Snapshot) SetNode(object *v1.Node) {
	slot := s.slotOf(object.Name)
	n := s.nodes[slot]
	if n.object == nil {
		s.enterRing(slot)
	}
	s.generation++
	n.object, n.generation = object, s.generation
	r := &s.rows[slot]
	common, rest := splitResources(object.Status.Allocatable)
	r.allocatable = common
	r.maxPods = int32(min(object.Status.Allocatable.Pods().Value(), 1<<30))
	n.stock.allocatable = map[v1.ResourceName]int64{}
	for _, e := range rest {
		n.stock.allocatable[e.name] = e.amount
	}
}

// RemoveNode forgets a node; its pods keep their place in the books in case it
// returns.
func (s *Snapshot) RemoveNode(name string) {
	slot, ok := s.bySlot[name]
	if !ok || s.nodes[slot].object == nil {
		return
	}
	s.leaveRing(slot)
	s.generation++
	s.nodes[slot].object, s.nodes[slot].generation = nil, s.generation
	s.releaseIfUnused(slot)
}

// SetNamespace takes over a namespace's labels, which affinity terms may
// select by.
func (s *Snapshot) SetNamespace(name string, labels map[string]string) { s.namespaces[name] = labels }

// RemoveNamespace forgets a namespace.
func (s *Snapshot) RemoveNamespace(name string) { delete(s.namespaces, name) }

// SetPod puts a pod on the named node, or moves or refreshes it there.
func (s *Snapshot) SetPod(pod *v1.Pod, nodeName string) {
	s.RemovePod(pod.UID)
	c := s.classOf(pod)
	p := &placed{
		uid:       pod.UID,
		slot:      s.slotOf(nodeName),
		demand:    &c.demand,
		namespace: pod.Namespace,
		labels:    pod.Labels,
		peers:     c.peers,
		claims:    ClaimsOf(pod),
		leaving:   pod.DeletionTimestamp != nil,
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		p.owner = ref.UID
	}
	s.pods[p.uid] = p
	if s.byNamespace[p.namespace] == nil {
		s.byNamespace[p.namespace] = map[types.UID]*placed{}
	}
	s.byNamespace[p.namespace][p.uid] = p
	if p.peers != nil && len(p.peers.antiAffinity) > 0 {
		s.exclusive[p.uid] = p
	}
	s.account(p, 1)
}

// RemovePod frees what a pod held. A pod that is not known is no error.
func (s *Snapshot) RemovePod(uid types.UID) {
	p, ok := s.pods[uid]
	if !ok {
		return
	}
	delete(s.pods, uid)
	delete(s.exclusive, uid)
	delete(s.byNamespace[p.namespace], uid)
	if len(s.byNamespace[p.namespace]) == 0 {
		delete(s.byNamespace, p.namespace)
	}
	s.account(p, -1)
	s.releaseIfUnused(p.slot)
}

func (s *Snapshot) account(p *placed, sign int) {
	n := s.nodes[p.slot]
	s.rows[p.slot].add(p.demand, int64(sign))
	n.stock.add(p.demand.extended, int64(sign))
	n.usePorts(p.demand.ports, sign)
	n.pods += sign
	s.storage.use(p, sign)
	if p.owner == "" {
		return
	}
	if n.owners == nil {
		n.owners = map[types.UID]int32{}
	}
	if n.owners[p.owner] += int32(sign); n.owners[p.owner] == 0 {
		delete(n.owners, p.owner)
	}
}

// slotOf returns the slot of a name and gives it one if need be.
func (s *Snapshot) slotOf(name string) int {
	if slot, ok := s.bySlot[name]; ok {
		return slot
	}
	var slot int
	if last := len(s.free) - 1; last >= 0 {
		slot, s.free = s.free[last], s.free[:last]
	} else {
		slot = len(s.nodes)
		s.nodes = append(s.nodes, nil)
		s.rows = append(s.rows, row{})
	}
	s.generation++
	s.nodes[slot] = &node{name: name, generation: s.generation}
	s.rows[slot] = row{}
	s.bySlot[name] = slot
	return slot
}

func (s *Snapshot) releaseIfUnused(slot int) {
	n := s.nodes[slot]
	if n.object != nil || n.pods > 0 {
		return
	}
	delete(s.bySlot, n.name)
	s.nodes[slot] = nil
	s.free = append(s.free, slot)
}
