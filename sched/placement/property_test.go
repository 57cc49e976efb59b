package placement

import (
	"fmt"
	"math/rand"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func quantity(s string) resource.Quantity { return resource.MustParse(s) }

var zones = []string{"z1", "z2", "z3"}

func drawNode(t *rapid.T, name string) *v1.Node {
	a := nodeArgument{
		Cap: v1.ResourceList{
			"cpu":    *resource.NewMilliQuantity(rapid.Int64Range(0, 4000).Draw(t, "cpu"), resource.DecimalSI),
			"memory": *resource.NewQuantity(rapid.Int64Range(0, 8<<30).Draw(t, "memory"), resource.BinarySI),
			"pods":   *resource.NewQuantity(rapid.Int64Range(0, 6).Draw(t, "pods"), resource.DecimalSI),
		},
		Labels: map[string]string{"zone": rapid.SampledFrom(zones).Draw(t, "zone")},
		Cordon: rapid.IntRange(0, 5).Draw(t, "cordon") == 0,
	}
	if rapid.IntRange(0, 3).Draw(t, "tainted") == 0 {
		a.Taints = []v1.Taint{{Key: "k", Effect: rapid.SampledFrom([]v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule}).Draw(t, "effect")}}
	}
	return a.node(name)
}

func drawPod(t *rapid.T, name string) *v1.Pod {
	a := podArgument{
		Owner:  rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "owner"),
		Labels: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app")},
		Req:    v1.ResourceList{},
	}
	if rapid.Bool().Draw(t, "asks") {
		a.Req["cpu"] = *resource.NewMilliQuantity(rapid.Int64Range(0, 2000).Draw(t, "cpu"), resource.DecimalSI)
		a.Req["memory"] = *resource.NewQuantity(rapid.Int64Range(0, 4<<30).Draw(t, "memory"), resource.BinarySI)
	}
	pod := a.pod(name)
	if rapid.IntRange(0, 2).Draw(t, "selects") == 0 {
		pod.Spec.NodeSelector = map[string]string{"zone": rapid.SampledFrom(zones).Draw(t, "zone")}
	}
	if rapid.IntRange(0, 2).Draw(t, "tolerates") == 0 {
		pod.Spec.Tolerations = []v1.Toleration{{Key: "k", Operator: v1.TolerationOpExists}}
	}
	if rapid.IntRange(0, 3).Draw(t, "port") == 0 {
		pod.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: int32(rapid.IntRange(80, 82).Draw(t, "hostPort"))}}
	}
	if rapid.IntRange(0, 4).Draw(t, "exclusive") == 0 {
		pod.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
			TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
		}}}}
	}
	return pod
}

// drawSociable is a pod with terms of every kind about others.
func drawSociable(t *rapid.T, name string) *v1.Pod {
	pod := drawPod(t, name)
	pod.Namespace = rapid.SampledFrom([]string{"default", "other"}).Draw(t, "namespace")
	term := func() v1.PodAffinityTerm {
		a := v1.PodAffinityTerm{
			TopologyKey:   rapid.SampledFrom([]string{"zone", v1.LabelHostname, "rack"}).Draw(t, "key"),
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "of")}},
		}
		if rapid.IntRange(0, 2).Draw(t, "wide") == 0 {
			a.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
		}
		return a
	}
	affinity := &v1.Affinity{PodAffinity: &v1.PodAffinity{}, PodAntiAffinity: &v1.PodAntiAffinity{}}
	for range rapid.IntRange(0, 2).Draw(t, "terms") {
		weighted := v1.WeightedPodAffinityTerm{Weight: int32(rapid.IntRange(1, 100).Draw(t, "weight")), PodAffinityTerm: term()}
		switch rapid.IntRange(0, 3).Draw(t, "term") {
		case 0:
			affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, term())
		case 1:
			affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, term())
		case 2:
			affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted)
		case 3:
			affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, weighted)
		}
		pod.Spec.Affinity = affinity
	}
	for range rapid.IntRange(0, 2).Draw(t, "constraints") {
		pod.Spec.TopologySpreadConstraints = append(pod.Spec.TopologySpreadConstraints, v1.TopologySpreadConstraint{
			MaxSkew:           int32(rapid.IntRange(1, 2).Draw(t, "skew")),
			TopologyKey:       rapid.SampledFrom([]string{"zone", v1.LabelHostname, "rack"}).Draw(t, "key"),
			WhenUnsatisfiable: rapid.SampledFrom([]v1.UnsatisfiableConstraintAction{v1.DoNotSchedule, v1.ScheduleAnyway}).Draw(t, "when"),
			LabelSelector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "of")}},
		})
	}
	if rapid.IntRange(0, 5).Draw(t, "leaving") == 0 {
		pod.DeletionTimestamp = &metav1.Time{}
	}
	return pod
}

func drawRack(t *rapid.T, name string) *v1.Node {
	node := drawNode(t, name)
	if rapid.Bool().Draw(t, "racked") {
		node.Labels["rack"] = rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "rack")
	}
	if rapid.Bool().Draw(t, "zoned") {
		node.Labels[v1.LabelTopologyZone] = node.Labels["zone"]
	}
	if rapid.Bool().Draw(t, "loaded") {
		node.Status.Images = []v1.ContainerImage{{Names: []string{"big:1"}, SizeBytes: rapid.Int64Range(1<<20, 1<<30).Draw(t, "bytes")}}
	}
	return node
}

// TestCountsStayTrue: what is counted along the way is what a snapshot that is
// told the outcome counts.
func TestCountsStayTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot()
		nodes, teams := map[string]*v1.Node{}, map[string]map[string]string{}
		pods, where := map[string]*v1.Pod{}, map[string]string{}
		for i := range rapid.IntRange(1, 60).Draw(t, "changes") {
			nodeName, podName := fmt.Sprintf("n%d", rapid.IntRange(0, 4).Draw(t, "node")), fmt.Sprintf("p%d", rapid.IntRange(0, 20).Draw(t, "pod"))
			switch rapid.IntRange(0, 8).Draw(t, "change") {
			case 0, 1:
				nodes[nodeName] = drawRack(t, nodeName)
				s.SetNode(nodes[nodeName])
			case 2:
				delete(nodes, nodeName)
				s.RemoveNode(nodeName)
			case 3:
				namespace := rapid.SampledFrom([]string{"default", "other"}).Draw(t, "relabelled")
				teams[namespace] = map[string]string{"team": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "team")}
				s.SetNamespace(namespace, teams[namespace])
			case 4:
				delete(pods, podName)
				s.RemovePod(types.UID(podName))
			case 5, 6:
				pods[podName], where[podName] = drawSociable(t, podName), nodeName
				s.SetPod(pods[podName], nodeName)
			default:
				s.Place(drawSociable(t, fmt.Sprintf("asks%d", i)))
			}
		}
		fresh := NewSnapshot()
		for _, node := range nodes {
			fresh.SetNode(node)
		}
		for name, pod := range pods {
			fresh.SetPod(pod, where[name])
		}
		for name, team := range teams {
			fresh.SetNamespace(name, team)
		}
		for i := range 10 {
			pod := drawSociable(t, fmt.Sprintf("q%d", i))
			one, two := s.Place(pod), fresh.Place(pod)
			if one.Node != two.Node || one.Diagnosis.String() != two.Diagnosis.String() {
				t.Fatalf("%s: %q (%v) and %q (%v)", pod.Name, one.Node, one.Diagnosis, two.Node, two.Diagnosis)
			}
		}
		for name := range nodes {
			s.RemoveNode(name)
		}
		for _, pod := range pods {
			s.RemovePod(pod.UID)
		}
		if len(s.bySlot)+len(s.pods)+len(s.standingByKey)+len(s.owners)+len(s.images)+len(s.standing.in)+len(s.standing.wide) != 0 {
			t.Fatalf("left behind: %d names, %d pods, %d terms, %d owners, %d images", len(s.bySlot), len(s.pods), len(s.standingByKey), len(s.owners), len(s.images))
		}
		for _, c := range s.classes {
			for _, counter := range c.peers.counters() {
				for d, n := range counter.counts {
					if n != 0 {
						t.Fatalf("%d pods of nowhere in domain %d of %s", n, d, counter.topology.key)
					}
				}
			}
		}
	})
}

// TestForgottenClassesLeaveNoCounters: the memory of classes is bounded, and
// with it what every pod is counted by.
func TestForgottenClassesLeaveNoCounters(t *testing.T) {
	s := NewSnapshot()
	s.SetNode(nodeArgument{Labels: map[string]string{"zone": "z1"}}.node("n"))
	for i := range 5 * maxClasses {
		pod := podArgument{Req: v1.ResourceList{"cpu": *resource.NewMilliQuantity(int64(i), resource.DecimalSI)}}.pod("p")
		pod.Labels = map[string]string{"app": "x"}
		pod.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels}}}
		s.Place(pod)
	}
	if n := len(s.counters.in["default"]); n == 0 || n > 2*maxClasses {
		t.Errorf("%d counters for %d classes", n, 2*maxClasses)
	}
	if n := len(s.kindOf("default", map[string]string{"app": "x"}).counters); n > 2*maxClasses {
		t.Errorf("a kind is counted by %d counters", n)
	}
}

// fleet is a plain model of a fleet: who runs where.
type fleet struct {
	nodes []*v1.Node
	on    map[*v1.Node][]*v1.Pod
}

// allows restates the rules in the plainest way, to check the fast one against.
func (f *fleet) allows(pod *v1.Pod, node *v1.Node) bool {
	if node.Spec.Unschedulable || int64(len(f.on[node])) >= node.Status.Allocatable.Pods().Value() {
		return false
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect != v1.TaintEffectPreferNoSchedule && len(pod.Spec.Tolerations) == 0 {
			return false
		}
	}
	if zone, ok := pod.Spec.NodeSelector["zone"]; ok && node.Labels["zone"] != zone {
		return false
	}
	for _, name := range []v1.ResourceName{"cpu", "memory"} {
		want := pod.Spec.Containers[0].Resources.Requests[name]
		have := node.Status.Allocatable[name].DeepCopy()
		for _, p := range f.on[node] {
			have.Sub(p.Spec.Containers[0].Resources.Requests[name])
		}
		if !want.IsZero() && want.Cmp(have) > 0 {
			return false
		}
	}
	for _, p := range f.on[node] {
		if ports := pod.Spec.Containers[0].Ports; len(ports) > 0 && len(p.Spec.Containers[0].Ports) > 0 && ports[0].HostPort == p.Spec.Containers[0].Ports[0].HostPort {
			return false
		}
	}
	return f.peersAllow(pod, node)
}

func (f *fleet) peersAllow(pod *v1.Pod, node *v1.Node) bool {
	for other, pods := range f.on {
		if other.Labels["zone"] != node.Labels["zone"] {
			continue
		}
		for _, p := range pods {
			if (p.Spec.Affinity != nil && pod.Labels["app"] == "x") || (pod.Spec.Affinity != nil && p.Labels["app"] == "x") {
				return false
			}
		}
	}
	return true
}

// TestPlaceObeysTheRules: a pod gets a node if and only if the rules allow one,
// and then one they allow; so no node is ever given more than it has.
func TestPlaceObeysTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, f := NewSnapshot(), &fleet{on: map[*v1.Node][]*v1.Pod{}}
		for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
			node := drawNode(t, fmt.Sprintf("n%d", i))
			f.nodes = append(f.nodes, node)
			s.SetNode(node)
		}
		for i := range rapid.IntRange(1, 30).Draw(t, "pods") {
			pod := drawPod(t, fmt.Sprintf("p%d", i))
			var chosen *v1.Node
			allowed := 0
			result := s.Place(pod)
			for _, node := range f.nodes {
				if f.allows(pod, node) {
					allowed++
				}
				if node.Name == result.Node {
					chosen = node
				}
			}
			if chosen == nil {
				if allowed > 0 {
					t.Fatalf("%s: %d nodes allowed, none chosen: %v", pod.Name, allowed, result.Diagnosis)
				}
				continue
			}
			if !f.allows(pod, chosen) {
				t.Fatalf("%s was put on %s, which does not allow it", pod.Name, chosen.Name)
			}
			f.on[chosen] = append(f.on[chosen], pod)
			s.SetPod(pod, chosen.Name)
			if rapid.IntRange(0, 5).Draw(t, "leaves") == 0 {
				f.on[chosen] = f.on[chosen][:len(f.on[chosen])-1]
				s.RemovePod(pod.UID)
			}
		}
	})
}

// TestEqualSnapshotsAgree: the same facts give the same answers, whatever the
// order and the history.
func TestEqualSnapshotsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*v1.Node
		for i := range rapid.IntRange(1, 12).Draw(t, "nodes") {
			nodes = append(nodes, drawRack(t, fmt.Sprintf("n%d", i)))
		}
		first := NewSnapshot()
		for _, node := range nodes {
			first.SetNode(node)
		}
		where := map[*v1.Pod]string{}
		var placed []*v1.Pod
		for i := range rapid.IntRange(0, 12).Draw(t, "pods") {
			pod := drawSociable(t, fmt.Sprintf("p%d", i))
			if result := first.Place(pod); result.Node != "" {
				first.SetPod(pod, result.Node)
				where[pod], placed = result.Node, append(placed, pod)
			}
		}

		second := NewSnapshot()
		r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		second.SetNode(drawNode(t, "passing"))
		second.SetPod(drawPod(t, "passing"), "passing")
		r.Shuffle(len(placed), func(i, j int) { placed[i], placed[j] = placed[j], placed[i] })
		for i, pod := range placed { // half the pods are known before their nodes
			if i%2 == 0 {
				second.SetPod(pod, where[pod])
			}
		}
		r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		for _, node := range nodes {
			second.SetNode(node)
		}
		for _, pod := range placed {
			second.SetPod(pod, where[pod])
		}
		second.RemovePod(types.UID("passing"))
		second.RemoveNode("passing")

		for i := range 10 {
			pod := drawSociable(t, fmt.Sprintf("q%d", i))
			one, two := first.Place(pod), second.Place(pod)
			if one.Node != two.Node || one.Diagnosis.String() != two.Diagnosis.String() {
				t.Fatalf("%s: %q (%v) and %q (%v)", pod.Name, one.Node, one.Diagnosis, two.Node, two.Diagnosis)
			}
		}
	})
}

// TestEmptiedSnapshotHoldsNothing: what is taken away leaves nothing behind.
func TestEmptiedSnapshotHoldsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot()
		var pods []*v1.Pod
		for i := range 10 {
			pod := drawPod(t, fmt.Sprintf("p%d", i))
			s.SetPod(pod, fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(t, "on")))
			pods = append(pods, pod)
		}
		for i := range 3 {
			s.SetNode(drawNode(t, fmt.Sprintf("n%d", i)))
		}
		for i := range 3 {
			s.RemoveNode(fmt.Sprintf("n%d", i))
		}
		for _, pod := range pods {
			s.RemovePod(pod.UID)
		}
		if len(s.bySlot) != 0 || len(s.ring) != 0 || len(s.pods) != 0 || len(s.kinds) != 0 || len(s.standingByKey) != 0 || len(s.owners) != 0 || len(s.topologies) != 1 || len(s.free) != len(s.nodes) {
			t.Fatalf("left behind: %d names, %d on the ring, %d pods, %d namespaces, %d terms, %d owners, %d topologies, %d of %d slots free",
				len(s.bySlot), len(s.ring), len(s.pods), len(s.kinds), len(s.standingByKey), len(s.owners), len(s.topologies), len(s.free), len(s.nodes))
		}
	})
}
