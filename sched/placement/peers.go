package placement

// peerCounts are the counters behind a class's terms, in the terms' order.
type peerCounts struct {
	affinity, antiAffinity, preferred, spread, softSpread []*counter
}

func (p *peerCounts) counters() []*counter {
	if p == nil {
		return nil
	}
	var all []*counter
	for _, list := range [...][]*counter{p.affinity, p.antiAffinity, p.preferred, p.spread, p.softSpread} {
		all = append(all, list...)
	}
	return all
}

// count makes the counters of a class.
func (s *Snapshot) count(c *class) *peerCounts {
	t, p := c.terms, &peerCounts{}
	for i := range t.affinity { // a pod counts only when it satisfies every term
		p.affinity = append(p.affinity, s.newCounter(t.affinity[i].topologyKey, t.affinity, nil))
	}
	for i := range t.antiAffinity {
		p.antiAffinity = append(p.antiAffinity, s.newCounter(t.antiAffinity[i].topologyKey, t.antiAffinity[i:i+1], nil))
	}
	for i := range t.preferred {
		p.preferred = append(p.preferred, s.newCounter(t.preferred[i].topologyKey, []peerTerm{t.preferred[i].peerTerm}, nil))
	}
	spread := func(group []spreadTerm) (list []*counter) {
		for i := range group {
			book := &spreadBook{class: c, term: &group[i], group: group}
			list = append(list, s.newCounter(group[i].topologyKey, []peerTerm{group[i].peerTerm}, book))
		}
		return list
	}
	p.spread, p.softSpread = spread(t.spread), spread(t.softSpread)
	return p
}

// peerView is what other pods mean for one that is to be placed.
type peerView struct {
	terms    *peerTerms
	counts   *peerCounts
	kind     *kind
	forbids  []*standing // of kind's, those that close a domain
	welcomes bool        // kind has standing terms that weigh
	// self is, by spread constraint, 1 when the pod counts towards its own.
	self []int32
	// first: the pod itself satisfies its affinity, so that it may begin where no
	// other does yet.
	first bool
}

var (
	noTerms  = &peerTerms{}
	noCounts = &peerCounts{}
)

// viewPeers returns nil when no pod anywhere has a say about one of this class
// and kind.
func (s *Snapshot) viewPeers(c *class, k *kind) *peerView {
	if c.terms == nil && len(k.standing) == 0 {
		return nil
	}
	v := &peerView{terms: noTerms, counts: noCounts, kind: k}
	for _, t := range k.standing {
		if t.forbids {
			v.forbids = append(v.forbids, t)
		} else {
			v.welcomes = true
		}
	}
	if c.terms == nil {
		return v
	}
	if c.peers == nil {
		c.peers = s.count(c)
	}
	v.terms, v.counts = c.terms, c.peers
	for _, counter := range c.peers.spread {
		self := int32(0)
		if k.counts(counter) {
			self = 1
		}
		v.self = append(v.self, self)
	}
	v.first = len(c.peers.affinity) > 0 && k.counts(c.peers.affinity[0])
	return v
}

// check is the filter of one node.
func (v *peerView) check(slot int) filter {
	if failed := v.checkSpread(slot); failed != passed {
		return failed
	}
	if len(v.counts.affinity) > 0 && !v.togetherAt(slot) {
		return failedPodAffinity
	}
	for _, c := range v.counts.antiAffinity {
		if n, _ := c.at(slot); n > 0 {
			return failedPodAntiAffinity
		}
	}
	for _, t := range v.forbids {
		if t.at(slot) > 0 {
			return failedExistingAntiAffinity
		}
	}
	return passed
}

func (v *peerView) checkSpread(slot int) filter {
	for i, c := range v.counts.spread {
		n, ok := c.at(slot)
		if !ok {
			return failedSpreadLabel
		}
		if n+v.self[i]-c.spread.floor() > v.terms.spread[i].maxSkew {
			return failedSpread
		}
	}
	return passed
}

func (v *peerView) togetherAt(slot int) bool {
	met, any := true, false
	for _, c := range v.counts.affinity {
		n, ok := c.at(slot)
		if !ok {
			return false
		}
		met = met && n > 0
		any = any || c.total > 0
	}
	return met || v.first && !any
}

// welcome is how much placed pods, and the pod's own wishes about them, speak
// for a node; against it below zero.
func (v *peerView) welcome(slot int) (sum int64) {
	for i, c := range v.counts.preferred {
		n, _ := c.at(slot)
		sum += v.terms.preferred[i].weight * int64(n)
	}
	if v.welcomes {
		for _, t := range v.kind.standing {
			sum += t.weight * int64(t.at(slot))
		}
	}
	return sum
}
