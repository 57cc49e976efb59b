package store_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"shoal/api/fields"
	"shoal/store"
)

var histories = flag.Uint64("histories", 100, "how many random histories to run for each kind of object")

var merger = fields.New(clientscheme.Scheme)

// subject is a kind of object and the ways in which peers edit it.
type subject struct {
	key    string
	make   func() runtime.Object
	decode func([]byte) runtime.Object
	encode func(runtime.Object) []byte
	// edit makes one random change. own is the peer's own name, for fields no
	// other peer edits, whose values it notes in owned.
	edit func(r *rand.Rand, o runtime.Object, own string, owned map[string]string)
	// read returns the owned fields as they are in o.
	read func(o runtime.Object) map[string]string
}

var serializer = protobuf.NewSerializer(clientscheme.Scheme, clientscheme.Scheme)

func encodeProtobuf(o runtime.Object) []byte {
	var b bytes.Buffer
	if err := serializer.Encode(o, &b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func decodeProtobuf(b []byte) runtime.Object {
	o, _, err := serializer.Decode(b, nil, nil)
	if err != nil {
		panic(err)
	}
	return o
}

func builtin(key, apiVersion, kind string, o runtime.Object, edit func(*rand.Rand, runtime.Object, string, map[string]string), read func(runtime.Object, map[string]string)) subject {
	return subject{
		key: key,
		make: func() runtime.Object {
			made := o.DeepCopyObject()
			made.GetObjectKind().SetGroupVersionKind(gvk(apiVersion, kind))
			return made
		},
		decode: decodeProtobuf,
		encode: encodeProtobuf,
		edit: func(r *rand.Rand, o runtime.Object, own string, owned map[string]string) {
			if m := o.(metav1.Object); r.IntN(3) > 0 {
				edit(r, o, own, owned)
				m.SetGeneration(m.GetGeneration() + 1)
			} else {
				editMeta(r, m, own, owned)
			}
		},
		read: func(o runtime.Object) map[string]string {
			owned := readMeta(o.(metav1.Object))
			read(o, owned)
			return owned
		},
	}
}

func editMeta(r *rand.Rand, m metav1.Object, own string, owned map[string]string) {
	switch r.IntN(7) {
	case 0:
		m.SetLabels(editMap(r, m.GetLabels(), "label ", own, owned))
	case 1:
		m.SetAnnotations(editMap(r, m.GetAnnotations(), "annotation ", own, owned))
	case 2:
		m.SetLabels(editMap(r, m.GetLabels(), "", "shared", nil))
	case 3:
		name := own + "/" + fmt.Sprint(r.IntN(3))
		if at := slices.Index(m.GetFinalizers(), name); at >= 0 {
			m.SetFinalizers(slices.Delete(slices.Clone(m.GetFinalizers()), at, at+1))
			owned["finalizer "+name] = ""
		} else {
			m.SetFinalizers(slices.Insert(slices.Clone(m.GetFinalizers()), r.IntN(len(m.GetFinalizers())+1), name))
			owned["finalizer "+name] = "set"
		}
	case 4:
		f := slices.Clone(m.GetFinalizers())
		r.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
		m.SetFinalizers(f)
	case 5:
		entry := metav1.ManagedFieldsEntry{Manager: fmt.Sprint("m", r.IntN(3)), Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(fmt.Sprintf(`{"f:%d":{}}`, r.Uint32()))}
		entries := slices.DeleteFunc(slices.Clone(m.GetManagedFields()), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == entry.Manager })
		m.SetManagedFields(append(entries, entry))
	case 6:
		if e := m.GetManagedFields(); len(e) > 0 {
			m.SetManagedFields(slices.Delete(slices.Clone(e), 0, 1))
		}
	}
}

func readMeta(m metav1.Object) map[string]string {
	owned := make(map[string]string)
	for k, v := range m.GetLabels() {
		owned["label "+k] = v
	}
	for k, v := range m.GetAnnotations() {
		owned["annotation "+k] = v
	}
	for _, f := range m.GetFinalizers() {
		owned["finalizer "+f] = "set"
	}
	return owned
}

func editMap(r *rand.Rand, m map[string]string, what, own string, owned map[string]string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	name := fmt.Sprint(own, r.IntN(3))
	value := fmt.Sprint(r.Uint32())
	if _, ok := m[name]; ok && r.IntN(2) == 0 {
		value = ""
		delete(m, name)
	} else {
		m[name] = value
	}
	if owned != nil {
		owned[what+name] = value
	}
	return m
}

func editContainers(r *rand.Rand, spec *corev1.PodSpec, own string, owned map[string]string) {
	main := &spec.Containers[slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == "main" })]
	switch r.IntN(11) {
	case 0, 1: // an own variable of the container that stays
		editEnv(r, main, own, owned)
	case 2: // a variable all edit, of any container
		editEnv(r, &spec.Containers[r.IntN(len(spec.Containers))], "SHARED", nil)
	case 3: // an order
		r.Shuffle(len(main.Env), func(i, j int) { main.Env[i], main.Env[j] = main.Env[j], main.Env[i] })
	case 4: // a container comes or goes
		name := fmt.Sprint("side", r.IntN(2))
		if at := slices.IndexFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == name }); at >= 0 {
			spec.Containers = slices.Delete(spec.Containers, at, at+1)
		} else {
			c := corev1.Container{Name: name, Image: fmt.Sprint("i", r.Uint32()), Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}
			spec.Containers = slices.Insert(spec.Containers, r.IntN(len(spec.Containers)+1), c)
		}
	case 5:
		spec.Containers[r.IntN(len(spec.Containers))].Image = fmt.Sprint("i", r.Uint32())
	case 6:
		port := corev1.ContainerPort{ContainerPort: 80 + r.Int32N(4), Protocol: "TCP", Name: fmt.Sprint("p", r.IntN(100))}
		main.Ports = slices.DeleteFunc(main.Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == port.ContainerPort })
		if r.IntN(3) > 0 {
			main.Ports = slices.Insert(main.Ports, r.IntN(len(main.Ports)+1), port)
		}
	case 7:
		name := fmt.Sprint("v", r.IntN(3))
		spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
		v := corev1.Volume{Name: name}
		if r.IntN(2) == 0 {
			v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		} else {
			v.HostPath = &corev1.HostPathVolumeSource{Path: fmt.Sprint("/", r.IntN(9))}
		}
		spec.Volumes = append(spec.Volumes, v)
	case 8:
		if main.SecurityContext == nil {
			main.SecurityContext = &corev1.SecurityContext{}
		}
		user := r.Int64N(1000)
		main.SecurityContext.RunAsUser = &user
	case 9:
		main.SecurityContext = nil
	case 10:
		if main.Resources.Limits == nil {
			main.Resources.Limits = corev1.ResourceList{}
		}
		main.Resources.Limits["cpu"] = *resource.NewMilliQuantity(r.Int64N(5000), resource.DecimalSI)
	}
}

func editEnv(r *rand.Rand, c *corev1.Container, own string, owned map[string]string) {
	name := fmt.Sprint(own, r.IntN(3))
	at := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name })
	value := fmt.Sprint(r.Uint32())
	switch {
	case at < 0:
		c.Env = slices.Insert(c.Env, r.IntN(len(c.Env)+1), corev1.EnvVar{Name: name, Value: value})
	case r.IntN(2) == 0:
		c.Env[at].Value = value
	default:
		c.Env, value = slices.Delete(c.Env, at, at+1), ""
	}
	if owned != nil {
		owned["env "+name] = value
	}
}

func readEnv(spec *corev1.PodSpec, owned map[string]string) {
	for _, c := range spec.Containers {
		for _, e := range c.Env {
			if c.Name == "main" {
				owned["env "+e.Name] = e.Value
			}
		}
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{
		Containers: []corev1.Container{{Name: "main", Image: "nginx", Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}}},
		Volumes:    []corev1.Volume{{Name: "v0", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
	}
}

var meta = metav1.ObjectMeta{Name: "x", Namespace: "default", UID: "u", Generation: 1, Labels: map[string]string{"app": "x"}}

func subjects() map[string]subject {
	replicas := int32(3)
	return map[string]subject{
		"Deployment": builtin("/registry/deployments/default/x", "apps/v1", "Deployment",
			&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{Spec: podSpec()}}},
			func(r *rand.Rand, o runtime.Object, own string, owned map[string]string) {
				d := o.(*appsv1.Deployment)
				if r.IntN(4) == 0 {
					n := r.Int32N(100)
					d.Spec.Replicas = &n
					return
				}
				editContainers(r, &d.Spec.Template.Spec, own, owned)
			},
			func(o runtime.Object, owned map[string]string) {
				readEnv(&o.(*appsv1.Deployment).Spec.Template.Spec, owned)
			}),
		"Pod": builtin("/registry/pods/default/x", "v1", "Pod", &corev1.Pod{ObjectMeta: meta, Spec: podSpec()},
			func(r *rand.Rand, o runtime.Object, own string, owned map[string]string) {
				p := o.(*corev1.Pod)
				if r.IntN(3) > 0 {
					editContainers(r, &p.Spec, own, owned)
					return
				}
				kind := corev1.PodConditionType(fmt.Sprint("C", r.IntN(4)))
				p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: "True", Reason: fmt.Sprint(r.Uint32())})
				p.Status.Phase = corev1.PodPhase(fmt.Sprint(r.IntN(3)))
			},
			func(o runtime.Object, owned map[string]string) { readEnv(&o.(*corev1.Pod).Spec, owned) }),
		"Service": builtin("/registry/services/specs/default/x", "v1", "Service", &corev1.Service{ObjectMeta: meta},
			func(r *rand.Rand, o runtime.Object, _ string, _ map[string]string) {
				s := &o.(*corev1.Service).Spec
				p := corev1.ServicePort{Port: 80 + r.Int32N(4), Protocol: "TCP", TargetPort: intstr.FromInt32(r.Int32N(1000))}
				at := slices.IndexFunc(s.Ports, func(q corev1.ServicePort) bool { return q.Port == p.Port })
				switch {
				case at < 0:
					s.Ports = slices.Insert(s.Ports, r.IntN(len(s.Ports)+1), p)
				case r.IntN(2) == 0:
					s.Ports[at].TargetPort = p.TargetPort
				default:
					s.Ports = slices.Delete(s.Ports, at, at+1)
				}
				s.Selector = map[string]string{"app": fmt.Sprint(r.IntN(5))}
			}, func(runtime.Object, map[string]string) {}),
		"ConfigMap": builtin("/registry/configmaps/default/x", "v1", "ConfigMap", &corev1.ConfigMap{ObjectMeta: meta},
			func(r *rand.Rand, o runtime.Object, own string, owned map[string]string) {
				c := o.(*corev1.ConfigMap)
				c.Data = editMap(r, c.Data, "data ", own, owned)
			},
			func(o runtime.Object, owned map[string]string) {
				for k, v := range o.(*corev1.ConfigMap).Data {
					owned["data "+k] = v
				}
			}),
		"Node": builtin("/registry/minions/x", "v1", "Node", &corev1.Node{ObjectMeta: meta},
			func(r *rand.Rand, o runtime.Object, _ string, _ map[string]string) {
				n := o.(*corev1.Node)
				taint := corev1.Taint{Key: fmt.Sprint(r.IntN(3)), Effect: "NoSchedule", Value: fmt.Sprint(r.IntN(3))}
				switch r.IntN(4) {
				case 0:
					n.Spec.Unschedulable = !n.Spec.Unschedulable
				case 1:
					n.Spec.Taints = append(slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taint.Key }), taint)
				case 2:
					n.Status.Images = []corev1.ContainerImage{{Names: []string{fmt.Sprint(r.IntN(5))}}}
				case 3:
					n.Status.Addresses = []corev1.NodeAddress{{Type: "InternalIP", Address: fmt.Sprint(r.IntN(9))}, {Type: "Hostname", Address: "x"}}
				}
			}, func(runtime.Object, map[string]string) {}),
		"custom resource": custom(),
	}
}

func TestFieldsConverge(t *testing.T) {
	for name, s := range subjects() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range *histories {
				runHistory(t, s, seed, name)
			}
		})
	}
}

// writeID is when and by whom.
type writeID struct {
	Time  store.HLC
	Actor store.Actor
}

// peer is a replica of one record.
type peer struct {
	name   string
	record store.Record
	owned  map[string]string
	clock  store.HLC
}

func (p *peer) write(r *rand.Rand, s subject) {
	o := s.decode(p.record.Value)
	for range 1 + r.IntN(2) {
		s.edit(r, o, p.name, p.owned)
	}
	value := s.encode(o)
	for _, st := range p.record.Stamps {
		p.clock = max(p.clock, st.Time)
	}
	// Clocks are apart: some writes come out earlier than others made before.
	p.clock += store.HLC(1 + r.IntN(20))
	stamp := store.Stamp{Time: p.clock, Actor: store.Actor(p.name[1])}
	p.record.Stamps = store.StampFields(merger, s.key, &p.record, value, stamp)
	p.record.Value = value
}

func (p *peer) merge(t *testing.T, s subject, o store.Record) {
	p.record = mustMerge(t, s.key, p.record, o)
}

func mustMerge(t *testing.T, key string, a, b store.Record) store.Record {
	t.Helper()
	merged, err := store.MergeFields(merger, key, &a, &b)
	if err != nil {
		t.Fatalf("merge: %v", err)
	}
	return merged
}

// runHistory lets peers write and merge at random, then gives all states that
// ever were to everybody, in random orders and groupings, some twice.
func runHistory(t *testing.T, s subject, seed uint64, name string) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, uint64(len(name))))
	first := store.Record{UID: "u", CausalLength: 1, Born: store.Stamp{Time: 1, Actor: 1}, Stamps: []store.Stamp{{Time: 1, Actor: 1}}, Value: s.encode(s.make())}
	peers := make([]*peer, 3+r.IntN(2))
	for i := range peers {
		peers[i] = &peer{name: fmt.Sprint("P", i), record: first, owned: map[string]string{}, clock: store.HLC(r.IntN(50))}
	}
	states := []store.Record{first}
	for range 4 + r.IntN(16) {
		p := peers[r.IntN(len(peers))]
		if r.IntN(3) == 0 {
			p.merge(t, s, peers[r.IntN(len(peers))].record)
		} else {
			p.write(r, s)
		}
		states = append(states, p.record)
	}
	var want []byte
	for range 4 {
		got := combine(t, r, s, states)
		form := store.AppendRecord(nil, &got)
		if want == nil {
			want = form
			checkOwned(t, s, peers, got, seed)
			checkWhole(t, s, states, got, seed)
		}
		if !bytes.Equal(form, want) {
			other, _ := store.DecodeRecord(want)
			t.Fatalf("seed %d: orders differ:\n%s\n%s", seed, show(s, got), show(s, other))
		}
	}
}

// combine merges states in a random binary tree, with repetitions.
func combine(t *testing.T, r *rand.Rand, s subject, states []store.Record) store.Record {
	left := slices.Clone(states)
	for range 3 {
		left = append(left, states[r.IntN(len(states))])
	}
	for len(left) > 1 {
		r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		last := len(left) - 1
		left[0] = mustMerge(t, s.key, left[0], left[last])
		left = left[:last]
	}
	return left[0]
}

func checkOwned(t *testing.T, s subject, peers []*peer, got store.Record, seed uint64) {
	t.Helper()
	have := s.read(s.decode(got.Value))
	for _, p := range peers {
		for field, value := range p.owned {
			if have[field] != value {
				t.Fatalf("seed %d: %s of %s is %q, last written %q:\n%s", seed, field, p.name, have[field], value, show(s, got))
			}
		}
	}
}

// checkWhole: the generation is the greatest, and no container that was removed
// came back in part.
func checkWhole(t *testing.T, s subject, states []store.Record, got store.Record, seed uint64) {
	t.Helper()
	var generation int64
	for _, st := range states {
		generation = max(generation, s.decode(st.Value).(metav1.Object).GetGeneration())
	}
	o := s.decode(got.Value)
	if have := o.(metav1.Object).GetGeneration(); have != generation {
		t.Fatalf("seed %d: generation %d, the greatest was %d", seed, have, generation)
	}
	var spec *corev1.PodSpec
	switch o := o.(type) {
	case *appsv1.Deployment:
		spec = &o.Spec.Template.Spec
	case *corev1.Pod:
		spec = &o.Spec
	default:
		return
	}
	for _, c := range spec.Containers {
		if c.Name == "" || c.Image == "" {
			t.Fatalf("seed %d: container %q has image %q:\n%s", seed, c.Name, c.Image, show(s, got))
		}
	}
}

// TestCollapseTellsNothingNew runs each history twice, once collapsing stable
// stamps on the way: in the end the values are the same.
func TestCollapseTellsNothingNew(t *testing.T) {
	for name, s := range subjects() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			collapsed := 0
			for seed := range *histories {
				plain, _ := runStable(t, s, seed, false)
				with, n := runStable(t, s, seed, true)
				collapsed += n
				if !bytes.Equal(plain.Value, with.Value) {
					t.Fatalf("seed %d: values differ:\n%s\n%s", seed, show(s, plain), show(s, with))
				}
			}
			if collapsed == 0 {
				t.Error("no stamp was ever collapsed")
			}
		})
	}
}

// runStable is a history in which peers know what the others hold, and returns
// what they all agree on and how many stamps were collapsed.
func runStable(t *testing.T, s subject, seed uint64, collapse bool) (store.Record, int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	value := s.encode(s.make())
	peers := make([]*peer, 3)
	holds := make([]map[writeID]bool, len(peers))
	for i := range peers {
		first := store.Record{UID: "u", CausalLength: 1, Born: store.Stamp{Time: 1, Actor: 1}, Stamps: []store.Stamp{{Time: 1, Actor: 1}}, Value: value}
		peers[i] = &peer{name: fmt.Sprint("P", i), record: first, owned: map[string]string{}}
		holds[i] = map[writeID]bool{}
	}
	collapsed := 0
	for range 30 {
		i, j := r.IntN(len(peers)), r.IntN(len(peers))
		if r.IntN(3) == 0 {
			peers[i].write(r, s)
			holds[i][writeID{Time: peers[i].clock, Actor: store.Actor(peers[i].name[1])}] = true
		} else {
			peers[i].merge(t, s, peers[j].record)
			maps.Copy(holds[i], holds[j])
		}
		if !collapse || !holdsAll(holds[i], holds) {
			continue
		}
		before := len(peers[i].record.Stamps)
		peers[i].record.Stamps = store.CollapseStamps(peers[i].record.Stamps, func(st store.Stamp) bool {
			for _, h := range holds {
				if !h[writeID{Time: st.Time, Actor: st.Actor}] {
					return false
				}
			}
			return true
		})
		collapsed += before - len(peers[i].record.Stamps)
	}
	a := mustMerge(t, s.key, mustMerge(t, s.key, peers[0].record, peers[1].record), peers[2].record)
	b := mustMerge(t, s.key, peers[1].record, mustMerge(t, s.key, peers[2].record, peers[0].record))
	if !bytes.Equal(store.AppendRecord(nil, &a), store.AppendRecord(nil, &b)) {
		t.Fatalf("seed %d: orders differ:\n%s\n%s", seed, show(s, a), show(s, b))
	}
	return a, collapsed
}

func holdsAll(mine map[writeID]bool, all []map[writeID]bool) bool {
	for _, h := range all {
		for st := range h {
			if !mine[st] {
				return false
			}
		}
	}
	return true
}

func show(s subject, r store.Record) string {
	object, err := json.Marshal(s.decode(r.Value))
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s", object)
	for _, st := range r.Stamps {
		fmt.Fprintf(&b, "\n  %d/%d %q", st.Time, st.Actor, st.Fields)
	}
	return b.String()
}
