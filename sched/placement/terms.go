package placement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// peerTerms are what a pod asks and wishes about where other pods run.
type peerTerms struct {
	affinity, antiAffinity []peerTerm
	preferred              []wishTerm
	spread, softSpread     []spreadTerm
}

// peerTerm is one pod (anti-)affinity term. The API server has already merged
// matchLabelKeys and mismatchLabelKeys into the selector.
type peerTerm struct {
	topologyKey       string
	namespaces        []string // sorted, each once
	namespaceSelector labels.Selector
	selector          labels.Selector
}

// wishTerm is a preferred term; the weight of one about keeping apart is below
// zero.
type wishTerm struct {
	peerTerm
	weight int64
}

// newPeerTerms returns nil for a pod that has no such terms.
func newPeerTerms(pod *v1.Pod) (*peerTerms, error) {
	var t peerTerms
	if a := pod.Spec.Affinity; a != nil {
		if err := t.parseAffinity(pod, a); err != nil {
			return nil, err
		}
	}
	if err := t.parseSpread(pod); err != nil {
		return nil, err
	}
	if len(t.affinity)+len(t.antiAffinity)+len(t.preferred)+len(t.spread)+len(t.softSpread) == 0 {
		return nil, nil
	}
	return &t, nil
}

func (t *peerTerms) parseAffinity(pod *v1.Pod, a *v1.Affinity) (err error) {
	if together := a.PodAffinity; together != nil {
		if t.affinity, err = parseTerms(pod, "podAffinity", together.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return err
		}
		if err := t.parseWishes(pod, "podAffinity", together.PreferredDuringSchedulingIgnoredDuringExecution, 1); err != nil {
			return err
		}
	}
	if apart := a.PodAntiAffinity; apart != nil {
		if t.antiAffinity, err = parseTerms(pod, "podAntiAffinity", apart.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return err
		}
		return t.parseWishes(pod, "podAntiAffinity", apart.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return nil
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

func (t *peerTerms) parseWishes(pod *v1.Pod, field string, terms []v1.WeightedPodAffinityTerm, sign int64) error {
	for i := range terms {
		term, err := parseTerm(pod, &terms[i].PodAffinityTerm)
		if err != nil {
			return fmt.Errorf("parse spec.affinity.%s preference %d: %w", field, i, err)
		}
		t.preferred = append(t.preferred, wishTerm{term, sign * int64(terms[i].Weight)})
	}
	return nil
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
	namespaces := slices.Clone(term.Namespaces)
	if len(namespaces) == 0 && term.NamespaceSelector == nil {
		namespaces = []string{pod.Namespace}
	}
	slices.Sort(namespaces)
	return peerTerm{term.TopologyKey, slices.Compact(namespaces), namespaceSelector, selector}, nil
}

// matches tells whether a pod is one the term speaks of.
func (t *peerTerm) matches(s *Snapshot, k *kind) bool {
	return (slices.Contains(t.namespaces, k.namespace) || t.namespaceSelector.Matches(labels.Set(s.namespaces[k.namespace]))) &&
		t.selector.Matches(labels.Set(k.labels))
}

// local tells whether the namespaces the term speaks of are all named by it.
func (t *peerTerm) local() bool {
	_, selectable := t.namespaceSelector.Requirements()
	return !selectable
}

// key is the same for equal terms.
func (t *peerTerm) key() string {
	namespaces := "-"
	if !t.local() {
		namespaces = strconv.Quote(t.namespaceSelector.String())
	}
	selector := "-" // of nothing, which reads like that of everything
	if _, selectable := t.selector.Requirements(); selectable {
		selector = strconv.Quote(t.selector.String())
	}
	return strings.Join([]string{strconv.Quote(t.topologyKey), strings.Join(t.namespaces, ","), namespaces, selector}, " ")
}
