package placement

import v1 "k8s.io/api/core/v1"

// Every score runs from 0 to fullScore before its weight; the weights are the
// upstream scheduler's defaults.
const (
	fullScore = 1000

	weightLeastAllocated = 1
	weightBalanced       = 1
	weightImages         = 1
	weightPreference     = 2
	weightPeers          = 2
	weightSpread         = 2
	weightTolerance      = 3
)

// A pod whose owner has others, and that wishes no spreading of its own, is
// spread as if it had these constraints with ScheduleAnyway: upstream's system
// defaults.
const (
	defaultHostSkew = 3
	defaultZoneSkew = 5
)

// scoring is what the scores of one placement share.
type scoring struct {
	*Snapshot
	class  *class
	peers  *peerView
	owner  *owner // nil: its pods are not spread by default
	soft   bool   // the pod has soft spread constraints
	hefts  []int64
	images []*image
	all    int // images of the pod

	lowest, highest raw
}

// raw are the scores of a node that are measured against the other candidates'.
type raw struct {
	preference, intolerant, welcome, crowd int64
	apart                                  bool // lacks a label of a soft constraint
}

// best returns the candidate with the highest score, the first in search order
// among equals.
func (s *Snapshot) best(c *class, pod *v1.Pod, v views, candidates []int) int {
	if len(candidates) == 1 {
		return candidates[0]
	}
	g := scoring{Snapshot: s, class: c, peers: v.peers}
	g.images, g.all = s.wanted(pod)
	g.prepareSpread(pod, candidates)
	g.measure(candidates)
	best, bestScore := candidates[0], int64(-1)
	for i, slot := range candidates {
		if score := g.score(slot, &s.raw[i]); score > bestScore {
			best, bestScore = slot, score
		}
	}
	return best
}

// measure notes every candidate's raw scores and their bounds.
func (g *scoring) measure(candidates []int) {
	g.raw = g.raw[:0]
	for i, slot := range candidates {
		v := g.verdictOf(g.class, slot)
		r := raw{preference: int64(v.preference), intolerant: int64(v.intolerant)}
		if g.peers != nil {
			r.welcome = g.peers.welcome(slot)
		}
		r.crowd, r.apart = g.crowd(slot)
		g.Snapshot.raw = append(g.Snapshot.raw, r)
		if i == 0 {
			g.lowest, g.highest = r, r
			if r.apart {
				g.lowest.crowd = 1<<63 - 1
			}
			continue
		}
		g.highest.preference = max(g.highest.preference, r.preference)
		g.highest.intolerant = max(g.highest.intolerant, r.intolerant)
		g.lowest.welcome = min(g.lowest.welcome, r.welcome)
		g.highest.welcome = max(g.highest.welcome, r.welcome)
		if !r.apart {
			g.lowest.crowd = min(g.lowest.crowd, r.crowd)
			g.highest.crowd = max(g.highest.crowd, r.crowd)
		}
	}
}

func (g *scoring) score(slot int, r *raw) int64 {
	n, c := &g.rows[slot], g.class
	cpu := share(n.scoredMilliCPU+c.scoreMilliCPU, n.allocatable.milliCPU)
	memory := share(n.scoredMemoryBytes+c.scoreMemoryBytes, n.allocatable.memoryBytes)
	total := weightLeastAllocated*(fullScore-(cpu+memory)/2) + weightBalanced*(fullScore-abs(cpu-memory)/2)
	if g.highest.preference > 0 {
		total += weightPreference * fullScore * r.preference / g.highest.preference
	}
	total += weightTolerance * remainder(r.intolerant, g.highest.intolerant)
	if spread := g.highest.welcome - g.lowest.welcome; spread > 0 {
		total += weightPeers * fullScore * (r.welcome - g.lowest.welcome) / spread
	}
	if !r.apart {
		total += weightSpread * remainder(r.crowd-g.lowest.crowd, g.highest.crowd)
	}
	if len(g.images) > 0 {
		total += weightImages * g.locality(g.nodes[slot], g.images, g.all)
	}
	return total
}

// prepareSpread finds what keeps the pod from its like, and how much each of
// the topologies weighs.
func (g *scoring) prepareSpread(pod *v1.Pod, candidates []int) {
	if g.peers != nil && len(g.peers.counts.softSpread) > 0 {
		g.soft = true
		for _, c := range g.peers.counts.softSpread {
			g.hefts = append(g.hefts, heft(g.domainsOf(c.topology, candidates)))
		}
		return
	}
	if g.owner = g.ownerOf(pod); g.owner != nil {
		g.hefts = append(g.hefts, heft(len(candidates)), heft(g.domainsOf(g.zones, candidates)))
	}
}

// domainsOf counts the domains the candidates are in.
func (g *scoring) domainsOf(t *topology, candidates []int) int {
	if t.key == v1.LabelHostname {
		return len(candidates)
	}
	g.seen = append(g.seen[:0], make([]bool, len(t.nodes))...)
	n := 0
	for _, slot := range candidates {
		if d := t.domain(slot); d != nowhere && !g.seen[d] {
			g.seen[d] = true
			n++
		}
	}
	return n
}

// crowd rates how many of its like are where a node is; apart nodes lack a
// label of the pod's constraints.
func (g *scoring) crowd(slot int) (sum int64, apart bool) {
	if g.soft {
		for i, c := range g.peers.counts.softSpread {
			n, ok := c.at(slot)
			if !ok {
				return 0, true
			}
			sum += crowded(n, g.peers.terms.softSpread[i].maxSkew, g.hefts[i])
		}
		return sum, false
	}
	if g.owner == nil {
		return 0, false
	}
	sum = crowded(g.owner.onSlot[slot], defaultHostSkew, g.hefts[0])
	if g.zones.domain(slot) != nowhere {
		sum += crowded(g.owner.inZone(g.zones, slot), defaultZoneSkew, g.hefts[1])
	}
	return sum, false
}

// crowded is upstream's scoreForCount, in thousandths: the skew that is allowed
// waters differences down.
func crowded(count, maxSkew int32, heft int64) int64 {
	return int64(count)*heft + 1000*int64(maxSkew-1)
}

// share is used/available in thousandths, at most all of it.
func share(used, available int64) int64 {
	if available <= 0 || used >= available {
		return fullScore
	}
	// A node's memory in bytes times a thousand stays far below 2^63.
	return used * fullScore / available
}

// remainder rates the least of something best.
func remainder(n, top int64) int64 {
	if top == 0 {
		return fullScore
	}
	return fullScore * (top - n) / top
}

func abs(n int64) int64 { return max(n, -n) }
