package placement

import (
	"slices"
	"strconv"
)

// standing is a term that placed pods carry, with its meaning for pods that
// come after them: required anti-affinity closes a domain to those it speaks
// of, every other term makes a domain more or less welcome to them.
type standing struct {
	key      string
	term     peerTerm
	topology *topology
	forbids  bool
	weight   int64
	counts   []int32 // pods that carry it, by domain
	carriers int     // on whatever node
}

// requiredWeight is what a required affinity of a placed pod weighs for one it
// speaks of: upstream's default hardPodAffinityWeight.
const requiredWeight = 1

// carriedTerm is a term of a class, to be carried by its pods.
type carriedTerm struct {
	key     string
	term    *peerTerm
	forbids bool
	weight  int64
}

func (t *standing) home() (namespaces []string, local bool) {
	return t.term.namespaces, t.term.local()
}

// carried lists what placed pods with these terms mean for others.
func (t *peerTerms) carried() []carriedTerm {
	var list []carriedTerm
	for i := range t.antiAffinity {
		list = append(list, carriedTerm{"!" + t.antiAffinity[i].key(), &t.antiAffinity[i], true, 0})
	}
	for i := range t.affinity {
		list = append(list, carriedTerm{weighted(requiredWeight, &t.affinity[i]), &t.affinity[i], false, requiredWeight})
	}
	for i := range t.preferred {
		p := &t.preferred[i]
		list = append(list, carriedTerm{weighted(p.weight, &p.peerTerm), &p.peerTerm, false, p.weight})
	}
	return list
}

// carry has a pod that is placed carry its class's terms.
func (s *Snapshot) carry(p *placed, terms []carriedTerm) {
	for i := range terms {
		t := s.standingOf(&terms[i])
		t.carriers++
		p.carries = append(p.carries, t)
	}
}

func (s *Snapshot) standingOf(c *carriedTerm) *standing {
	if t := s.standingByKey[c.key]; t != nil {
		return t
	}
	t := &standing{key: c.key, term: *c.term, topology: s.topologyOf(c.term.topologyKey), forbids: c.forbids, weight: c.weight}
	s.standingByKey[t.key] = t
	s.standing.add(t)
	namespaces, local := t.home()
	s.kindsFor(namespaces, local, func(k *kind) {
		if t.term.matches(s, k) {
			k.standing = append(k.standing, t)
		}
	})
	return t
}

// discard ends the terms that nobody carries any more.
func (s *Snapshot) discard(p *placed) {
	for _, t := range p.carries {
		if t.carriers--; t.carriers > 0 {
			continue
		}
		delete(s.standingByKey, t.key)
		s.standing.remove(t)
		s.letGo(t.topology)
		namespaces, local := t.home()
		s.kindsFor(namespaces, local, func(k *kind) {
			k.standing = without(k.standing, func(other *standing) bool { return other == t })
		})
	}
	p.carries = nil
}

func (t *standing) count(slot int, sign int32) {
	d := t.topology.domain(slot)
	if d == nowhere {
		return
	}
	for int(d) >= len(t.counts) {
		t.counts = append(t.counts, 0)
	}
	t.counts[d] += sign
}

// at is how many pods that carry the term are where a node is.
func (t *standing) at(slot int) int32 {
	if d := t.topology.domain(slot); d != nowhere && int(d) < len(t.counts) {
		return t.counts[d]
	}
	return 0
}

// without is slices.DeleteFunc that leaves nil for an empty list.
func without[T any](list []T, gone func(T) bool) []T {
	if list = slices.DeleteFunc(list, gone); len(list) == 0 {
		return nil
	}
	return list
}

func weighted(weight int64, t *peerTerm) string {
	return strconv.FormatInt(weight, 10) + " " + t.key()
}
