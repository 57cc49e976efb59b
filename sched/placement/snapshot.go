package placement

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
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

	pods       map[types.UID]*placed
	nominees   map[types.UID]*placed
	priorities map[int32]int // pods, by priority
	budgets    map[string]map[string]*budget
	owners     map[types.UID]*owner
	namespaces map[string]map[string]string
	storage    storage
	images     map[string]*image

	// What pods mean for each other.
	kinds         map[string]map[string]*kind // by namespace and labels
	idleKinds     int
	topologies    map[string]*topology
	zones         *topology
	counters      speakers[*counter]
	standing      speakers[*standing]
	standingByKey map[string]*standing

	classes, oldClasses map[string]*class
	generation          uint32
	key, kindKey        []byte // scratch of classOf, kindOf
	feasible            []int  // scratch of Place
	raw                 []raw  // scratch of best
	seen                []bool // scratch of best
}

// node is what is known about a node beside its row.
type node struct {
	name       string
	object     *v1.Node // nil while only pods mention the name
	generation uint32   // changes whenever a cached verdict about it expires
	stock      stock
	ports      portUse
	pods       []*placed
	nominees   []*placed        // promised the node, and not counted
	images     map[*image]int64 // bytes
}

// placed is a pod that occupies a node, or is promised one.
type placed struct {
	uid            types.UID
	name           string
	priority       int32
	slot           int
	started        int64 // Unix seconds
	inKind, onNode int   // its index in either's pods
	kind           *kind
	demand         *demand
	owner          *owner // nil without a controller
	carries        []*standing
	claims         []string
	leaving        bool
	condemned      bool // leaves, or soon will, for a pod of higher priority
	lifted         bool // not counted for the moment
}

// NewSnapshot returns a snapshot of an empty fleet.
func NewSnapshot() *Snapshot {
	s := &Snapshot{
		bySlot:        map[string]int{},
		pods:          map[types.UID]*placed{},
		nominees:      map[types.UID]*placed{},
		priorities:    map[int32]int{},
		budgets:       map[string]map[string]*budget{},
		owners:        map[types.UID]*owner{},
		namespaces:    map[string]map[string]string{},
		storage:       newStorage(),
		images:        map[string]*image{},
		kinds:         map[string]map[string]*kind{},
		topologies:    map[string]*topology{},
		standingByKey: map[string]*standing{},
		classes:       map[string]*class{},
	}
	s.zones = s.topologyOf(v1.LabelTopologyZone)
	return s
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
	s.change(slot, object)
	s.setImages(n, object.Status.Images)
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
	s.change(slot, nil)
	s.setImages(s.nodes[slot], nil)
	s.releaseIfUnused(slot)
}

// change takes over a node's object, nil for none, and counts its pods where it
// is now.
func (s *Snapshot) change(slot int, object *v1.Node) {
	n := s.nodes[slot]
	for _, p := range n.pods {
		s.tally(p, -1)
	}
	s.counters.all(func(c *counter) {
		if c.spread != nil {
			c.dismiss(slot)
		}
	})
	s.generation++
	n.object, n.generation = object, s.generation
	for _, t := range s.topologies {
		t.set(slot, n)
	}
	s.counters.all(func(c *counter) {
		if c.spread != nil {
			c.judge(slot, object)
		}
	})
	for _, p := range n.pods {
		s.tally(p, 1)
	}
}

// SetNamespace takes over a namespace's labels, which affinity terms may
// select by.
func (s *Snapshot) SetNamespace(name string, labels map[string]string) {
	if maps.Equal(s.namespaces[name], labels) {
		s.namespaces[name] = labels
		return
	}
	s.namespaces[name] = labels
	s.relisten(name)
}

// RemoveNamespace forgets a namespace.
func (s *Snapshot) RemoveNamespace(name string) {
	delete(s.namespaces, name)
	s.relisten(name)
}

// relisten counts a namespace's pods by its new labels.
func (s *Snapshot) relisten(namespace string) {
	for _, k := range s.kinds[namespace] {
		for _, p := range k.pods {
			s.tally(p, -1)
		}
		s.listen(k)
		for _, p := range k.pods {
			s.tally(p, 1)
		}
	}
}

// SetPod puts a pod on the named node, or moves or refreshes it there. It is
// promised none from then on.
func (s *Snapshot) SetPod(pod *v1.Pod, nodeName string) {
	before := s.pods[pod.UID]
	s.RemovePod(pod.UID)
	s.Withdraw(pod.UID)
	p := s.newPlaced(pod, nodeName)
	if before != nil && before.condemned {
		p.condemned = true
	}
	s.pods[p.uid] = p
	s.priorities[p.priority]++
	n := s.nodes[p.slot]
	p.onNode, n.pods = len(n.pods), append(n.pods, p)
	s.join(p.kind, p)
	s.account(p, 1)
}

// newPlaced has all that a placed pod holds; it is counted nowhere yet.
func (s *Snapshot) newPlaced(pod *v1.Pod, nodeName string) *placed {
	c := s.classOf(pod)
	p := &placed{
		uid:       pod.UID,
		name:      pod.Name,
		priority:  corev1helpers.PodPriority(pod),
		slot:      s.slotOf(nodeName),
		started:   startOf(pod),
		kind:      s.kindOf(pod.Namespace, pod.Labels),
		demand:    c.demand,
		claims:    ClaimsOf(pod),
		leaving:   pod.DeletionTimestamp != nil,
		condemned: condemned(pod),
	}
	s.hold(p.kind)
	s.own(p, pod)
	s.carry(p, c.carried)
	return p
}

// letGoOf undoes newPlaced.
func (s *Snapshot) letGoOf(p *placed) {
	s.discard(p)
	s.disown(p)
	s.release(p.kind)
	s.releaseIfUnused(p.slot)
}

// RemovePod frees what a pod held. A pod that is not known is no error.
func (s *Snapshot) RemovePod(uid types.UID) {
	p, ok := s.pods[uid]
	if !ok {
		return
	}
	s.account(p, -1)
	s.quit(p)
	n := s.nodes[p.slot]
	last := len(n.pods) - 1
	n.pods[p.onNode] = n.pods[last]
	n.pods[p.onNode].onNode = p.onNode
	n.pods[last], n.pods = nil, n.pods[:last]
	delete(s.pods, uid)
	if s.priorities[p.priority]--; s.priorities[p.priority] == 0 {
		delete(s.priorities, p.priority)
	}
	s.letGoOf(p)
}

// account adds a pod to everything that is summed up, or takes it away.
func (s *Snapshot) account(p *placed, sign int) {
	n := s.nodes[p.slot]
	s.rows[p.slot].add(p.demand, int64(sign))
	n.stock.add(p.demand.extended, int64(sign))
	n.usePorts(p.demand.ports, sign)
	s.storage.use(p, sign)
	s.tally(p, int32(sign))
}

// tally does so where the sums are by domain.
func (s *Snapshot) tally(p *placed, sign int32) {
	for _, c := range p.kind.counters {
		c.count(p, sign)
	}
	for _, t := range p.carries {
		t.count(p.slot, sign)
	}
	if p.owner != nil && !p.leaving {
		p.owner.count(s.zones, p.slot, sign)
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
	if n.object != nil || len(n.pods)+len(n.nominees) > 0 {
		return
	}
	delete(s.bySlot, n.name)
	s.nodes[slot] = nil
	s.free = append(s.free, slot)
}
