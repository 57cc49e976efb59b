package placement

// topology numbers the values that the nodes have for one label: its domains.
type topology struct {
	key    string
	uses   int // counters, standing terms and others that hold it
	bySlot []int32
	byName map[string]int32
	names  []string // by domain
	nodes  []int32  // by domain
	free   []int32
}

// nowhere is the domain of a node without the label.
const nowhere = -1

// topologyOf finds or makes the topology of a label; the caller lets it go.
func (s *Snapshot) topologyOf(key string) *topology {
	t := s.topologies[key]
	if t == nil {
		t = &topology{key: key, byName: map[string]int32{}}
		s.topologies[key] = t
		for slot := range s.nodes {
			t.set(slot, s.nodes[slot])
		}
	}
	t.uses++
	return t
}

func (s *Snapshot) letGo(t *topology) {
	if t.uses--; t.uses == 0 {
		delete(s.topologies, t.key)
	}
}

// domain is where a node is, nowhere when it lacks the label.
func (t *topology) domain(slot int) int32 {
	if slot >= len(t.bySlot) {
		return nowhere
	}
	return t.bySlot[slot]
}

// set takes over a node's label. No pod may be counted on the slot meanwhile.
func (t *topology) set(slot int, n *node) {
	for len(t.bySlot) <= slot {
		t.bySlot = append(t.bySlot, nowhere)
	}
	if old := t.bySlot[slot]; old != nowhere {
		t.bySlot[slot] = nowhere
		if t.nodes[old]--; t.nodes[old] == 0 {
			delete(t.byName, t.names[old])
			t.free = append(t.free, old)
		}
	}
	if n == nil || n.object == nil {
		return
	}
	value, ok := n.object.Labels[t.key]
	if !ok {
		return
	}
	d, known := t.byName[value]
	if !known {
		d = t.number(value)
	}
	t.nodes[d]++
	t.bySlot[slot] = d
}

func (t *topology) number(value string) (d int32) {
	if last := len(t.free) - 1; last >= 0 {
		d, t.free = t.free[last], t.free[:last]
		t.names[d] = value
	} else {
		d = int32(len(t.names))
		t.names, t.nodes = append(t.names, value), append(t.nodes, 0)
	}
	t.byName[value] = d
	return d
}
