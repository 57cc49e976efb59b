package placement

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// crowd is a full fleet, to be told to any number of snapshots.
type crowd struct {
	nodes    []*v1.Node
	pods     []*v1.Pod
	where    map[*v1.Pod]string
	budgets  []*policyv1.PodDisruptionBudget
	promised []*v1.Pod
}

func drawCrowd(t *rapid.T) *crowd {
	f := &crowd{where: map[*v1.Pod]string{}}
	s := NewSnapshot()
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		node := drawRack(t, fmt.Sprintf("n%d", i))
		f.nodes = append(f.nodes, node)
		s.SetNode(node)
	}
	for i := range rapid.IntRange(0, 20).Draw(t, "pods") {
		pod := drawRanked(t, fmt.Sprintf("p%d", i))
		node := s.Place(pod).Node
		if rapid.IntRange(0, 3).Draw(t, "unasked") == 0 {
			node = rapid.SampledFrom(f.nodes).Draw(t, "node").Name
		}
		if node != "" {
			s.SetPod(pod, node)
			f.pods, f.where[pod] = append(f.pods, pod), node
		}
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "budgets") {
		b := budgetArgument{Of: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "of")}, Allowed: int32(rapid.IntRange(0, 2).Draw(t, "allowed"))}
		f.budgets = append(f.budgets, b.budget(fmt.Sprintf("b%d", i)))
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "promised") {
		pod := drawRanked(t, fmt.Sprintf("r%d", i))
		f.promised, f.where[pod] = append(f.promised, pod), rapid.SampledFrom(f.nodes).Draw(t, "promise").Name
	}
	return f
}

func drawRanked(t *rapid.T, name string) *v1.Pod {
	pod := drawSociable(t, name)
	priority := int32(rapid.IntRange(-1, 3).Draw(t, "priority"))
	pod.Spec.Priority = &priority
	if rapid.Bool().Draw(t, "started") {
		pod.Status.StartTime = &metav1.Time{Time: metav1.Unix(rapid.Int64Range(0, 3).Draw(t, "start"), 0).Time}
	}
	return pod
}

// tell makes a snapshot of the fleet without some of its pods.
func (f *crowd) tell(seed int64, but func(*v1.Pod) bool) *Snapshot {
	s := NewSnapshot()
	r := rand.New(rand.NewSource(seed))
	shuffle(r, f.nodes, func(node *v1.Node) { s.SetNode(node) })
	shuffle(r, f.promised, func(pod *v1.Pod) { s.Nominate(pod, f.where[pod]) })
	shuffle(r, f.pods, func(pod *v1.Pod) {
		if !but(pod) {
			s.SetPod(pod, f.where[pod])
		}
	})
	shuffle(r, f.budgets, func(b *policyv1.PodDisruptionBudget) { s.SetBudget(b) })
	return s
}

func shuffle[T any](r *rand.Rand, list []T, visit func(T)) {
	list = slices.Clone(list)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, one := range list {
		visit(one)
	}
}

func nobody(*v1.Pod) bool { return false }

func fitsOn(s *Snapshot, pod *v1.Pod, node string) bool {
	c := s.classOf(pod)
	v, _ := s.viewsOf(pod, c)
	return s.examine(c, s.bySlot[node], v) == passed
}

// needsCompany: pods that leave or return may make a node good for such a pod as
// well as bad.
func needsCompany(pod *v1.Pod) bool {
	a := pod.Spec.Affinity
	return a != nil && a.PodAffinity != nil && len(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0
}

// TestPreemption: the victims are less important, without them the pod fits, and
// with any one of them it does not; when there are none, no node would do even
// without all pods that are less important. Equal snapshots agree, and asking
// changes nothing.
func TestPreemption(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawCrowd(t)
		s, other := f.tell(1, nobody), f.tell(2, nobody)
		for i := range 3 {
			pod := drawRanked(t, fmt.Sprintf("q%d", i))
			result := s.Place(pod)
			if result.Node != "" {
				continue
			}
			p := s.Preempt(pod, result.Diagnosis)
			if again := other.Preempt(pod, other.Place(pod).Diagnosis); fmt.Sprint(p) != fmt.Sprint(again) {
				t.Fatalf("%s: %+v and %+v", pod.Name, p, again)
			}
			if p.Node == "" {
				checkNoneWouldDo(t, f, pod)
				continue
			}
			checkVictims(t, f, pod, p)
		}
		asked := f.tell(3, nobody)
		for i := range 5 {
			pod := drawRanked(t, fmt.Sprintf("z%d", i))
			if one, two := s.Place(pod), asked.Place(pod); one.Node != two.Node || one.Diagnosis.String() != two.Diagnosis.String() {
				t.Fatalf("%s: %q (%v) after others asked, %q (%v) before", pod.Name, one.Node, one.Diagnosis, two.Node, two.Diagnosis)
			}
		}
	})
}

func checkNoneWouldDo(t *rapid.T, f *crowd, pod *v1.Pod) {
	if needsCompany(pod) {
		return
	}
	for _, node := range f.nodes {
		rest := f.tell(0, func(p *v1.Pod) bool { return f.where[p] == node.Name && *p.Spec.Priority < *pod.Spec.Priority })
		if fitsOn(rest, pod, node.Name) {
			t.Fatalf("%s would fit on %s without those of lower priority", pod.Name, node.Name)
		}
	}
}

func checkVictims(t *rapid.T, f *crowd, pod *v1.Pod, p Preemption) {
	var victims []*v1.Pod
	for _, v := range p.Victims {
		i := slices.IndexFunc(f.pods, func(p *v1.Pod) bool { return p.UID == v.UID })
		if i < 0 || f.where[f.pods[i]] != p.Node || *f.pods[i].Spec.Priority >= *pod.Spec.Priority {
			t.Fatalf("%s: victim %+v is not on %s, or not of lower priority", pod.Name, v, p.Node)
		}
		victims = append(victims, f.pods[i])
	}
	gone := func(p *v1.Pod) bool { return slices.Contains(victims, p) }
	rest := f.tell(0, gone)
	if rest.Nominate(pod, p.Node); rest.Place(pod).Node != p.Node {
		t.Fatalf("%s does not get %s after %d victims: %v", pod.Name, p.Node, len(victims), rest.Place(pod).Diagnosis)
	}
	for _, spared := range victims {
		if needsCompany(pod) {
			break
		}
		if fitsOn(f.tell(0, func(p *v1.Pod) bool { return gone(p) && p != spared }), pod, p.Node) {
			t.Fatalf("%s fits on %s beside victim %s", pod.Name, p.Node, spared.Name)
		}
	}
}

// TestPromisesLeaveNothingBehind: what is promised and withdrawn is gone.
func TestPromisesLeaveNothingBehind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawCrowd(t)
		s := f.tell(1, nobody)
		for _, pod := range f.promised {
			s.Withdraw(pod.UID)
		}
		for _, pod := range f.pods {
			s.RemovePod(pod.UID)
		}
		for _, node := range f.nodes {
			s.RemoveNode(node.Name)
		}
		for _, b := range f.budgets {
			s.RemoveBudget(b.Namespace, b.Name)
		}
		if len(s.bySlot)+len(s.pods)+len(s.nominees)+len(s.priorities)+len(s.budgets)+len(s.kinds)+len(s.standingByKey)+len(s.owners) != 0 || s.idleKinds != 0 {
			t.Fatalf("left behind: %+v", s)
		}
	})
}

// BenchmarkPreempt is what a pod costs that finds no node among 5,000 on each of
// which others would go for it.
func BenchmarkPreempt(b *testing.B) {
	for _, social := range []bool{false, true} {
		b.Run(fmt.Sprintf("social=%t", social), func(b *testing.B) {
			s := NewSnapshot()
			for i := range 5000 {
				name := fmt.Sprintf("node-%d", i)
				s.SetNode(nodeArgument{
					Cap:    v1.ResourceList{"cpu": quantity("3"), "memory": quantity("256Gi"), "pods": quantity("110")},
					Labels: map[string]string{v1.LabelTopologyZone: zones[i%len(zones)]},
				}.node(name))
				for j := range 30 {
					s.SetPod(podArgument{Req: v1.ResourceList{"cpu": quantity("100m")}}.pod(fmt.Sprintf("%s-%d", name, j)), name)
				}
			}
			pod := socialPod(1)
			if !social {
				pod.Spec.Affinity, pod.Spec.TopologySpreadConstraints = nil, nil
			}
			priority := int32(10)
			pod.Spec.Priority = &priority
			pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{"cpu": *resource.NewQuantity(1, resource.DecimalSI)}
			result := s.Place(pod)
			for b.Loop() {
				if s.Preempt(pod, result.Diagnosis).Node == "" {
					b.Fatal("no victims")
				}
			}
		})
	}
}
