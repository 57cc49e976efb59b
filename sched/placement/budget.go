package placement

import (
	"maps"
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// budget is how many of some pods may be taken away now.
type budget struct {
	selector labels.Selector
	allowed  int32
	taken    map[string]metav1.Time // by pod; not in allowed any more
}

// SetBudget takes over a disruption budget; one with a selector that does not
// parse protects nobody. An empty selector is of all pods, as policy/v1 says.
func (s *Snapshot) SetBudget(object *policyv1.PodDisruptionBudget) {
	s.RemoveBudget(object.Namespace, object.Name)
	selector, err := metav1.LabelSelectorAsSelector(object.Spec.Selector)
	if err != nil {
		return
	}
	if s.budgets[object.Namespace] == nil {
		s.budgets[object.Namespace] = map[string]*budget{}
	}
	s.budgets[object.Namespace][object.Name] = &budget{selector, object.Status.DisruptionsAllowed, object.Status.DisruptedPods}
}

// RemoveBudget forgets a disruption budget.
func (s *Snapshot) RemoveBudget(namespace, name string) {
	delete(s.budgets[namespace], name)
	if len(s.budgets[namespace]) == 0 {
		delete(s.budgets, namespace)
	}
}

// splitByBudgets finds the pods that their budgets would not let go if all before
// them went.
func (s *Snapshot) splitByBudgets(pods []*placed) (violating, others []*placed) {
	if len(s.budgets) == 0 {
		return nil, pods
	}
	spent := map[*budget]int32{}
	for _, p := range pods {
		if s.violates(p, spent) {
			violating = append(violating, p)
		} else {
			others = append(others, p)
		}
	}
	return violating, others
}

func (s *Snapshot) violates(p *placed, spent map[*budget]int32) bool {
	ofNamespace := s.budgets[p.kind.namespace]
	for _, name := range slices.Sorted(maps.Keys(ofNamespace)) {
		b := ofNamespace[name]
		if !b.selector.Matches(labels.Set(p.kind.labels)) {
			continue
		}
		if _, counted := b.taken[p.name]; counted {
			continue
		}
		if spent[b]++; spent[b] > b.allowed {
			return true
		}
	}
	return false
}
