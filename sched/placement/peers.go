package placement

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// peerTerms are a pod's hard constraints about where other pods run.
type peerTerms struct {
	affinity, antiAffinity []peerTerm
	spread                 []spreadTerm
}

// peerTerm is one required pod (anti-)affinity term. The API server has already
// merged matchLabelKeys and mismatchLabelKeys into the selector.
type peerTerm struct {
	topologyKey       string
	namespaces        []string
	namespaceSelector labels.Selector
	selector          labels.Selector
}

func newPeerTerms(pod *v1.Pod) (*peerTerms, error) {
	var t peerTerms
	var err error
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		if t.affinity, err = parseTerms(pod, "podAffinity", a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return nil, err
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		if t.antiAffinity, err = parseTerms(pod, "podAntiAffinity", a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return nil, err
		}
	}
	if t.spread, err = parseSpread(pod); err != nil {
		return nil, err
	}
	if len(t.affinity) == 0 && len(t.antiAffinity) == 0 && len(t.spread) == 0 {
		return nil, nil
	}
	return &t, nil
}

func parseTerms(pod *v1.Pod, field string, terms []v1.PodAffinityTerm) ([]peerTerm, error) {
	parsed := make([]peerTerm, 0, len(terms))
	for i := range terms {
		term, err := parseTerm(pod, &terms[i])
		if err != nil {
			return nil, fmt.Errorf("parse spec.affinity.%s term %d: %w", field, i, err)
		}
		parsed = append(parsed, term)
	}
	return parsed, nil
}

func parseTerm(pod *v1.Pod, term *v1.PodAffinityTerm) (peerTerm, error) {
	selector, err := metav1.LabelSelectorAsSelector(term.LabelSelector)
	if err != nil {
		return peerTerm{}, err
	}
	namespaceSelector, err := metav1.LabelSelectorAsSelector(term.NamespaceSelector)
	if err != nil {
		return peerTerm{}, err
	}
	namespaces := term.Namespaces
	if len(namespaces) == 0 && term.NamespaceSelector == nil {
		namespaces = []string{pod.Namespace}
	}
	return peerTerm{term.TopologyKey, namespaces, namespaceSelector, selector}, nil
}

// matches tells whether a pod is one the term speaks of.
func (t *peerTerm) matches(s *Snapshot, namespace string, podLabels map[string]string) bool {
	return t.covers(s, namespace) && t.selector.Matches(labels.Set(podLabels))
}

func (t *peerTerm) covers(s *Snapshot, namespace string) bool {
	return slices.Contains(t.namespaces, namespace) || t.namespaceSelector.Matches(labels.Set(s.namespaces[namespace]))
}

// domain is one value of one topology key.
type domain struct{ key, value string }

// peerView is what a pod's peers mean for each node: computed once per
// placement, then asked per node.
type peerView struct {
	terms     *peerTerms
	together  map[domain]int      // pods that satisfy all affinity terms
	apart     map[domain]struct{} // closed by the pod's own anti-affinity
	excluded  map[domain]struct{} // closed by the anti-affinity of pods there
	first     bool                // no pod matches yet, and the pod itself would
	spreading []spreadView
}

// viewPeers returns nil when no pod anywhere has a say about this one.
func (s *Snapshot) viewPeers(c *class, pod *v1.Pod) *peerView {
	if c.peers == nil && len(s.exclusive) == 0 {
		return nil
	}
	v := &peerView{terms: &peerTerms{}, excluded: map[domain]struct{}{}}
	s.collectExclusions(v, pod)
	if c.peers == nil {
		if len(v.excluded) == 0 {
			return nil
		}
		return v
	}
	v.terms = c.peers
	v.together, v.apart = map[domain]int{}, map[domain]struct{}{}
	s.collectMatches(v, pod)
	v.spreading = s.viewSpread(c, pod)
	return v
}

func (s *Snapshot) collectExclusions(v *peerView, pod *v1.Pod) {
	for _, p := range s.exclusive {
		for i := range p.peers.antiAffinity {
			term := &p.peers.antiAffinity[i]
			if d, ok := s.domainOf(p, term.topologyKey); ok && term.matches(s, pod.Namespace, pod.Labels) {
				v.excluded[d] = struct{}{}
			}
		}
	}
}

func (s *Snapshot) collectMatches(v *peerView, pod *v1.Pod) {
	for namespace, pods := range s.byNamespace {
		if !v.concerns(s, namespace) {
			continue
		}
		for _, p := range pods {
			s.matchPeer(v, p)
		}
	}
	v.first = len(v.together) == 0
	for i := range v.terms.affinity {
		v.first = v.first && v.terms.affinity[i].matches(s, pod.Namespace, pod.Labels)
	}
}

// concerns spares the pods of namespaces no term covers.
func (v *peerView) concerns(s *Snapshot, namespace string) bool {
	covers := func(t peerTerm) bool { return t.covers(s, namespace) }
	return slices.ContainsFunc(v.terms.affinity, covers) || slices.ContainsFunc(v.terms.antiAffinity, covers)
}

func (s *Snapshot) matchPeer(v *peerView, p *placed) {
	for i := range v.terms.antiAffinity {
		term := &v.terms.antiAffinity[i]
		if d, ok := s.domainOf(p, term.topologyKey); ok && term.matches(s, p.namespace, p.labels) {
			v.apart[d] = struct{}{}
		}
	}
	for i := range v.terms.affinity {
		if !v.terms.affinity[i].matches(s, p.namespace, p.labels) {
			return // a pod counts only when it satisfies every term
		}
	}
	for i := range v.terms.affinity {
		if d, ok := s.domainOf(p, v.terms.affinity[i].topologyKey); ok {
			v.together[d]++
		}
	}
}

// domainOf is where a pod runs, seen at the scale of a topology key.
func (s *Snapshot) domainOf(p *placed, key string) (domain, bool) {
	object := s.nodes[p.slot].object
	if object == nil {
		return domain{}, false
	}
	value, ok := object.Labels[key]
	return domain{key, value}, ok
}

func (v *peerView) check(object *v1.Node) filter {
	if failed := v.checkSpread(object); failed != passed {
		return failed
	}
	if !v.togetherHere(object) {
		return failedPodAffinity
	}
	for i := range v.terms.antiAffinity {
		key := v.terms.antiAffinity[i].topologyKey
		if value, ok := object.Labels[key]; ok {
			if _, closed := v.apart[domain{key, value}]; closed {
				return failedPodAntiAffinity
			}
		}
	}
	for d := range v.excluded {
		if value, ok := object.Labels[d.key]; ok && value == d.value {
			return failedExistingAntiAffinity
		}
	}
	return passed
}

func (v *peerView) togetherHere(object *v1.Node) bool {
	for i := range v.terms.affinity {
		key := v.terms.affinity[i].topologyKey
		value, ok := object.Labels[key]
		if !ok || (v.together[domain{key, value}] == 0 && !v.first) {
			return false
		}
	}
	return true
}
