package placement

// counter counts, for a class, the placed pods that match terms of it, by
// domain. It is kept current with every pod and node that comes or goes, so
// that a placement reads it and never looks at other pods.
type counter struct {
	topology *topology
	terms    []peerTerm // a pod counts when all of them match
	counts   []int32    // by domain; may be shorter than there are domains
	total    int
	spread   *spreadBook // nil for those of affinity
}

func (c *counter) home() (namespaces []string, local bool) {
	return c.terms[0].namespaces, c.terms[0].local()
}

func (c *counter) matches(s *Snapshot, k *kind) bool {
	for i := range c.terms {
		if !c.terms[i].matches(s, k) {
			return false
		}
	}
	return true
}

// newCounter counts what there is, and from now on.
func (s *Snapshot) newCounter(key string, terms []peerTerm, book *spreadBook) *counter {
	c := &counter{topology: s.topologyOf(key), terms: terms, spread: book}
	if book != nil {
		for _, e := range s.ring {
			c.judge(e.slot, s.nodes[e.slot].object)
		}
	}
	s.counters.add(c)
	namespaces, local := c.home()
	s.kindsFor(namespaces, local, func(k *kind) {
		if !c.matches(s, k) {
			return
		}
		k.counters = append(k.counters, c)
		for _, p := range k.pods {
			c.count(p, 1)
		}
	})
	return c
}

// dropCounters ends counters of classes that are forgotten.
func (s *Snapshot) dropCounters(dead []*counter) {
	for _, c := range dead {
		s.counters.remove(c)
		s.letGo(c.topology)
		c.terms = nil
	}
	for _, ofNamespace := range s.kinds {
		for _, k := range ofNamespace {
			k.counters = without(k.counters, func(c *counter) bool { return c.terms == nil })
		}
	}
}

// count adds a pod or takes it away.
func (c *counter) count(p *placed, sign int32) {
	d := c.topology.domain(p.slot)
	if d == nowhere {
		return
	}
	c.reach(d)
	if c.spread != nil {
		if p.leaving || !c.spread.eligible(p.slot) {
			return
		}
		c.spread.move(c, d, c.counts[d], c.counts[d]+sign)
	}
	c.counts[d] += sign
	c.total += int(sign)
}

func (c *counter) reach(d int32) {
	for int(d) >= len(c.counts) {
		c.counts = append(c.counts, 0)
	}
}

// at is the count where a node is, and whether the node is anywhere.
func (c *counter) at(slot int) (count int32, ok bool) {
	d := c.topology.domain(slot)
	if d == nowhere {
		return 0, false
	}
	if int(d) >= len(c.counts) {
		return 0, true
	}
	return c.counts[d], true
}
