package placement

import (
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// maxClasses bounds the remembered equivalence classes: this many, and as many
// again that were not used since. A fleet has as many as it has distinct pod
// templates; one that is asked for again costs one pass of the node filters.
const maxClasses = 256

// class is an equivalence class: all pods whose placement depends on the same
// demands and constraints.
type class struct {
	*demand
	required    nodeaffinity.RequiredNodeAffinity
	preferred   *nodeaffinity.PreferredSchedulingTerms
	tolerations []v1.Toleration
	terms       *peerTerms    // nil for a pod without terms about other pods
	carried     []carriedTerm // what of these binds pods that come later
	peers       *peerCounts   // of the terms; made when the class is first placed
	key         string
	bestEffort  bool   // its QoS class
	refused     string // why this package cannot honour the pod at all

	pinned []string // the only node names it can match; nil when not so limited
	single verdict  // scratch of a pinned class

	// verdicts by slot, valid while the slot's generation is the one noted.
	verdicts []verdict
}

// verdict is what the filters and scores that look at a node alone, not at its
// pods, say about one node.
type verdict struct {
	generation uint32
	preference int32 // weight sum of the preferred terms that match
	intolerant int32 // PreferNoSchedule taints that are not tolerated
	failed     filter
}

// classOf finds or makes the class of a pod.
func (s *Snapshot) classOf(pod *v1.Pod) *class {
	d := demandOf(pod)
	s.key = appendKey(s.key[:0], pod, &d)
	if c, ok := s.classes[string(s.key)]; ok {
		return c
	}
	if c, ok := s.oldClasses[string(s.key)]; ok {
		delete(s.oldClasses, string(s.key))
		s.remember(c)
		return c
	}
	c := newClass(pod, d)
	c.key = string(s.key)
	s.remember(c)
	return c
}

// remember keeps a class that is in use; the older half is forgotten when there
// are too many.
func (s *Snapshot) remember(c *class) {
	if len(s.classes) < maxClasses {
		s.classes[c.key] = c
		return
	}
	var dead []*counter
	for _, old := range s.oldClasses {
		dead = append(dead, old.peers.counters()...)
	}
	if len(dead) > 0 {
		s.dropCounters(dead)
	}
	s.oldClasses, s.classes = s.classes, map[string]*class{c.key: c}
}

func newClass(pod *v1.Pod, d demand) *class {
	c := &class{
		demand:      &d,
		required:    nodeaffinity.GetRequiredNodeAffinity(pod),
		tolerations: pod.Spec.Tolerations,
		bestEffort:  pod.Status.QOSClass == v1.PodQOSBestEffort,
		refused:     Unsupported(pod),
		pinned:      pinnedNodes(pod),
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		if err == nil {
			c.preferred = terms
		}
	}
	terms, err := newPeerTerms(pod)
	if err != nil {
		c.refused = err.Error()
		return c
	}
	if c.terms = terms; terms != nil {
		c.carried = terms.carried()
	}
	return c
}

// appendKey writes everything a class is made of. The namespace belongs to it
// only where terms about other pods are read by it, and labels only as far as
// matchLabelKeys names them.
func appendKey(key []byte, pod *v1.Pod, d *demand) []byte {
	for _, n := range [...]int64{d.milliCPU, d.memoryBytes, d.ephemeralBytes, d.scoreMilliCPU, d.scoreMemoryBytes} {
		key = append(strconv.AppendInt(key, n, 36), ' ')
	}
	for _, e := range d.extended {
		key = append(append(key, e.name...), '=')
		key = append(strconv.AppendInt(key, e.amount, 36), ' ')
	}
	for _, p := range d.ports {
		key = append(append(append(key, p.protocol...), p.address...), ':')
		key = append(strconv.AppendInt(key, int64(p.port), 36), ' ')
	}
	if pod.Status.QOSClass == v1.PodQOSBestEffort {
		key = append(key, 'b')
	}
	key = appendMap(append(key, 's'), pod.Spec.NodeSelector)
	for i := range pod.Spec.Tolerations {
		t := &pod.Spec.Tolerations[i]
		for _, part := range [...]string{t.Key, string(t.Operator), t.Value, string(t.Effect)} {
			key = append(strconv.AppendQuote(key, part), 't')
		}
	}
	if needsDetail(pod) {
		key = appendDetail(key, pod)
	}
	return key
}

// needsDetail is false for most pods and spares them an encoder.
func needsDetail(pod *v1.Pod) bool {
	return pod.Spec.Affinity != nil || len(pod.Spec.TopologySpreadConstraints) > 0 || Unsupported(pod) != ""
}

func appendDetail(key []byte, pod *v1.Pod) []byte {
	key = append(append(key, 'n'), pod.Namespace...)
	key = append(append(key, '/'), Unsupported(pod)...)
	parts := make([]interface{ Marshal() ([]byte, error) }, 0, 4)
	if pod.Spec.Affinity != nil {
		parts = append(parts, pod.Spec.Affinity)
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		parts = append(parts, c)
		for _, name := range c.MatchLabelKeys {
			value, ok := pod.Labels[name]
			key = strconv.AppendQuote(strconv.AppendBool(key, ok), value)
		}
	}
	for _, part := range parts {
		detail, err := part.Marshal()
		if err != nil { // no such value in these types; a key of its own is always right
			return append(key, pod.UID...)
		}
		key = append(strconv.AppendInt(append(key, '/'), int64(len(detail)), 36), '/')
		key = append(key, detail...)
	}
	return key
}

func appendMap(key []byte, m map[string]string) []byte {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		key = append(strconv.AppendQuote(key, name), '=')
		key = strconv.AppendQuote(key, m[name])
	}
	return key
}

// pinnedNodes finds the node names a required node affinity is limited to by
// metadata.name, when every one of its alternatives is.
func pinnedNodes(pod *v1.Pod) []string {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	var names []string
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		limited := false
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == v1.NodeSelectorOpIn {
				names, limited = append(names, field.Values...), true
			}
		}
		if !limited {
			return nil
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
