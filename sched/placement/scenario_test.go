package placement

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the expected answers in testdata")

// A scenario is a list of commands, one per line, each with an argument in YAML
// flow style. `pod` places a pod and leaves it there, `try` only asks, `bound`
// puts a pod on a node unasked, `preempt` asks who would have to go for a pod that
// finds no node, and `displace` also has that begun; their answers follow on a line
// that starts with `->`.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("answers differ; run with -update if that is meant\n--- want\n%s\n--- got\n%s", want, got)
			}
		})
	}
}

func replay(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	s := NewSnapshot()
	for _, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		if strings.HasPrefix(line, "->") {
			continue
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if answer := execute(t, s, line); answer != "" {
			out.WriteString("-> " + answer + "\n")
		}
	}
	return out.String()
}

type nodeArgument struct {
	Cap    v1.ResourceList
	Labels map[string]string
	Taints []v1.Taint
	Cordon bool
	// Ready is the status of the Ready condition; empty for none.
	Ready v1.ConditionStatus `json:"ready"`
	// Holds are the other conditions that are true.
	Holds []v1.NodeConditionType
	// Images are what is loaded, with the size in MiB.
	Images map[string]int64
}

type podArgument struct {
	NS, Owner, Node string
	Labels          map[string]string
	Req             v1.ResourceList
	Spec            v1.PodSpec
	Leaving         bool
	Prio            *int32
	Started         *metav1.Time
}

func execute(t *testing.T, s *Snapshot, line string) string {
	t.Helper()
	verb, rest, _ := strings.Cut(line, " ")
	name, argument, _ := strings.Cut(rest, " ")
	parse := func(into any) {
		if err := yaml.UnmarshalStrict([]byte(argument), into); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	switch verb {
	case "node":
		var a nodeArgument
		parse(&a)
		s.SetNode(a.node(name))
	case "no-node":
		s.RemoveNode(name)
	case "namespace":
		labels := map[string]string{}
		parse(&labels)
		s.SetNamespace(name, labels)
	case "claim", "no-claim", "volume", "no-volume", "class", "room":
		storeScripted(t, s, verb, name, parse)
	case "budget":
		var a budgetArgument
		parse(&a)
		s.SetBudget(a.budget(name))
	case "no-budget":
		s.RemoveBudget("default", name)
	case "gone":
		s.RemovePod(types.UID(name))
	case "promise":
		var a podArgument
		parse(&a)
		s.Nominate(a.pod(name), a.Node)
	case "preempt", "displace":
		var a podArgument
		parse(&a)
		return preemptScripted(s, verb, a.pod(name))
	case "pod", "try", "bound":
		var a podArgument
		parse(&a)
		return placeScripted(s, verb, a.pod(name), a.Node)
	default:
		t.Fatalf("%s: no such command", line)
	}
	return ""
}

func placeScripted(s *Snapshot, verb string, pod *v1.Pod, node string) string {
	if verb == "bound" {
		s.SetPod(pod, node)
		return ""
	}
	result := s.Place(pod)
	if result.Node == "" {
		return "none: " + result.Diagnosis.String()
	}
	if verb == "pod" {
		s.SetPod(pod, result.Node)
		if err := s.Assume(result); err != nil {
			return "cannot assume: " + err.Error()
		}
	}
	answer := result.Node
	for _, b := range result.Volumes {
		if b.Volume != nil {
			answer += " " + b.Claim.Name + "=" + b.Volume.Name
		} else {
			answer += " " + b.Claim.Name + " is made there"
		}
	}
	return answer
}

func preemptScripted(s *Snapshot, verb string, pod *v1.Pod) string {
	result := s.Place(pod)
	if result.Node != "" {
		return "fits " + result.Node
	}
	p := s.Preempt(pod, result.Diagnosis)
	if p.Node == "" {
		return result.Diagnosis.String() + " " + p.Message
	}
	if verb == "displace" {
		s.Promise(pod, p)
	}
	answer := p.Node + " without"
	for _, victim := range p.Victims {
		answer += " " + victim.Name
	}
	for _, displaced := range p.Displaced {
		answer += ", no longer promised to " + displaced.Name
	}
	return answer
}

type budgetArgument struct {
	Of      map[string]string
	Allowed int32
	Taken   []string
}

func (a budgetArgument) budget(name string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: a.Of}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: a.Allowed, DisruptedPods: map[string]metav1.Time{}},
	}
	for _, pod := range a.Taken {
		b.Status.DisruptedPods[pod] = metav1.Time{}
	}
	return b
}

func (a nodeArgument) node(name string) *v1.Node {
	if _, ok := a.Cap[v1.ResourcePods]; !ok {
		if a.Cap == nil {
			a.Cap = v1.ResourceList{}
		}
		a.Cap[v1.ResourcePods] = quantity("110")
	}
	labels := map[string]string{v1.LabelHostname: name}
	for k, v := range a.Labels {
		labels[k] = v
	}
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       v1.NodeSpec{Taints: a.Taints, Unschedulable: a.Cordon},
		Status:     v1.NodeStatus{Allocatable: a.Cap},
	}
	if a.Ready != "" {
		node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: a.Ready}}
	}
	for _, kind := range a.Holds {
		node.Status.Conditions = append(node.Status.Conditions, v1.NodeCondition{Type: kind, Status: v1.ConditionTrue})
	}
	for image, size := range a.Images {
		node.Status.Images = append(node.Status.Images, v1.ContainerImage{Names: []string{image}, SizeBytes: size << 20})
	}
	return node
}

func (a podArgument) pod(name string) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: a.NS, Name: name, UID: types.UID(name), Labels: a.Labels},
		Spec:       a.Spec,
	}
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: a.Req}}}
	}
	if len(a.Req) == 0 {
		pod.Status.QOSClass = v1.PodQOSBestEffort
	}
	if a.Owner != "" {
		controller := true
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: a.Owner, UID: types.UID(a.Owner), Controller: &controller}}
	}
	if a.Leaving {
		pod.DeletionTimestamp = &metav1.Time{}
	}
	if a.Prio != nil {
		pod.Spec.Priority = a.Prio
	}
	pod.Status.StartTime = a.Started
	return pod
}

// TestDiagnosisNamesWhatHelps guards the re-queueing: a pod that waits for the
// wrong kind of change would wait for ever.
func TestDiagnosisNamesWhatHelps(t *testing.T) {
	cases := []struct {
		name  string
		setup []string
		pod   podArgument
		want  Change
	}{
		{"no nodes", nil, podArgument{}, NodeChange},
		{"full", []string{`node a {cap: {cpu: 1}}`}, podArgument{Req: v1.ResourceList{"cpu": quantity("2")}}, NodeChange | PodGone},
		{"cordoned", []string{`node a {cordon: true}`}, podArgument{}, NodeChange},
		{"unsupported", []string{`node a {}`}, podArgument{Spec: v1.PodSpec{
			Containers: []v1.Container{{}}, ResourceClaims: []v1.PodResourceClaim{{}}}}, 0},
		{"needs a peer", []string{`node a {}`}, podArgument{Spec: v1.PodSpec{
			Containers: []v1.Container{{}},
			Affinity: &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
				TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			}}}},
		}}, NodeChange | PodPlaced},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := NewSnapshot()
			for _, line := range c.setup {
				execute(t, s, line)
			}
			result := s.Place(c.pod.pod("p"))
			if result.Node != "" || result.Diagnosis.Waits != c.want {
				t.Errorf("node %q, waits %b, want none and %b: %s", result.Node, result.Diagnosis.Waits, c.want, fmt.Sprint(result.Diagnosis))
			}
		})
	}
}
