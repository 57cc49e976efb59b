package store_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"shoal/store"
)

const deploymentKey = "/registry/deployments/default/x"

func firstRecord(s subject) store.Record {
	return store.Record{UID: "u", CausalLength: 1, Born: store.Stamp{Time: 1, Actor: 1}, Stamps: []store.Stamp{{Time: 1, Actor: 1}}, Value: s.encode(s.make())}
}

// wrote returns r after a write by actor at time.
func wrote(r store.Record, time store.HLC, actor store.Actor, edit func(d *appsv1.Deployment)) store.Record {
	d := decodeProtobuf(r.Value).(*appsv1.Deployment)
	edit(d)
	value := encodeProtobuf(d)
	r.Stamps = store.StampFields(merger, deploymentKey, &r, value, store.Stamp{Time: time, Actor: actor})
	r.Value = value
	return r
}

func deployment(t *testing.T, r store.Record) *appsv1.Deployment {
	t.Helper()
	d, ok := decodeProtobuf(r.Value).(*appsv1.Deployment)
	if !ok {
		t.Fatal("not a deployment")
	}
	return d
}

func containerNames(d *appsv1.Deployment) []string {
	var names []string
	for _, c := range d.Spec.Template.Spec.Containers {
		names = append(names, c.Name)
	}
	return names
}

// TestMergeFieldsRules states, one by one, what a user may count on.
func TestMergeFieldsRules(t *testing.T) {
	first := firstRecord(subjects()["Deployment"])
	pod := func(d *appsv1.Deployment) *corev1.PodSpec { return &d.Spec.Template.Spec }
	sidecar := func(image string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			pod(d).Containers = append(pod(d).Containers, corev1.Container{Name: "side", Image: image})
		}
	}
	withSide := wrote(first, 2, 1, sidecar("one"))
	for _, c := range []struct {
		name  string
		a, b  store.Record
		check func(d *appsv1.Deployment) error
	}{
		{
			"scale and set image both survive",
			wrote(first, 5, 1, func(d *appsv1.Deployment) { *d.Spec.Replicas = 7 }),
			wrote(first, 4, 2, func(d *appsv1.Deployment) { pod(d).Containers[0].Image = "new" }),
			func(d *appsv1.Deployment) error {
				return expect(*d.Spec.Replicas, 7, pod(d).Containers[0].Image, "new")
			},
		},
		{
			"of one field the later write stays",
			wrote(first, 5, 1, func(d *appsv1.Deployment) { *d.Spec.Replicas = 7 }),
			wrote(first, 6, 2, func(d *appsv1.Deployment) { *d.Spec.Replicas = 8 }),
			func(d *appsv1.Deployment) error { return expect(*d.Spec.Replicas, 8) },
		},
		{
			"an edit of a container does not bring it back",
			wrote(withSide, 5, 1, func(d *appsv1.Deployment) { pod(d).Containers = pod(d).Containers[:1] }),
			wrote(withSide, 6, 2, func(d *appsv1.Deployment) { pod(d).Containers[1].Image = "two" }),
			func(d *appsv1.Deployment) error { return expect(fmt.Sprint(containerNames(d)), "[main]") },
		},
		{
			"two containers of one name are not mixed",
			wrote(first, 5, 1, func(d *appsv1.Deployment) {
				sidecar("one")(d)
				pod(d).Containers[1].Command = []string{"sleep"}
			}),
			wrote(first, 6, 2, sidecar("two")),
			func(d *appsv1.Deployment) error {
				return expect(pod(d).Containers[1].Image, "two", len(pod(d).Containers[1].Command), 0)
			},
		},
		{
			"the later order of a list stays, what it did not know stands by its own time",
			wrote(withSide, 6, 1, func(d *appsv1.Deployment) { slices.Reverse(pod(d).Containers) }),
			wrote(withSide, 7, 2, func(d *appsv1.Deployment) {
				pod(d).Containers = append(pod(d).Containers, corev1.Container{Name: "third", Image: "i"})
			}),
			func(d *appsv1.Deployment) error { return expect(fmt.Sprint(containerNames(d)), "[side main third]") },
		},
		{
			"a struct removed stays removed",
			wrote(withSide, 6, 1, func(d *appsv1.Deployment) { pod(d).Volumes = nil }),
			wrote(withSide, 7, 2, func(d *appsv1.Deployment) { pod(d).Volumes[0].EmptyDir.Medium = "Memory" }),
			func(d *appsv1.Deployment) error { return expect(len(pod(d).Volumes), 0) },
		},
		{
			"labels added to none on two sides both stay",
			wrote(first, 6, 1, func(d *appsv1.Deployment) { d.Spec.Template.Labels = map[string]string{"a": "1"} }),
			wrote(first, 7, 2, func(d *appsv1.Deployment) { d.Spec.Template.Labels = map[string]string{"b": "2"} }),
			func(d *appsv1.Deployment) error { return expect(fmt.Sprint(d.Spec.Template.Labels), "map[a:1 b:2]") },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ab := mustMerge(t, deploymentKey, c.a, c.b)
			ba := mustMerge(t, deploymentKey, c.b, c.a)
			if !bytes.Equal(store.AppendRecord(nil, &ab), store.AppendRecord(nil, &ba)) {
				t.Errorf("differs the other way round")
			}
			if err := c.check(deployment(t, ab)); err != nil {
				t.Error(err)
			}
		})
	}
}

// expect takes pairs of what is and what should be.
func expect(pairs ...any) error {
	for i := 0; i < len(pairs); i += 2 {
		if fmt.Sprint(pairs[i]) != fmt.Sprint(pairs[i+1]) {
			return fmt.Errorf("is %v, want %v", pairs[i], pairs[i+1])
		}
	}
	return nil
}

// TestMergeFieldsWithoutSchema: what cannot be joined is kept whole, on the
// later side, whichever way round, and says why.
func TestMergeFieldsWithoutSchema(t *testing.T) {
	first := firstRecord(subjects()["Deployment"])
	good := wrote(first, 5, 1, func(d *appsv1.Deployment) { *d.Spec.Replicas = 7 })
	set := good.Stamps[1].Fields
	// Number 200 is a field of some later version.
	newer := append(bytes.Clone(good.Value), 0xc2, 0x0c, 1, 'x')
	for name, bad := range map[string][]byte{
		"garbage": []byte("\xff\x00 nothing"), "cut short": good.Value[:len(good.Value)-3], "empty": nil,
		"unknown field": newer, "another kind": encodeProtobuf(subjects()["Pod"].make()), "broken JSON": []byte(`{"a":`),
	} {
		t.Run(name, func(t *testing.T) {
			worse := first
			worse.Value = bad
			worse.Stamps = []store.Stamp{first.Stamps[0], {Time: 6, Actor: 2, Fields: set}}
			ab, err := store.MergeFields(merger, deploymentKey, &good, &worse)
			if err == nil {
				t.Error("joined without an error")
			}
			ba, _ := store.MergeFields(merger, deploymentKey, &worse, &good)
			if !bytes.Equal(ab.Value, bad) || !bytes.Equal(ba.Value, bad) {
				t.Errorf("kept %q and %q, not the later", ab.Value, ba.Value)
			}
		})
	}
}

// TestStampsAreBounded: however finely a record is attributed, it can be stored,
// and peers agree on it.
func TestStampsAreBounded(t *testing.T) {
	s := subjects()["ConfigMap"]
	// Each side has many writes, every one of another field.
	side := func(actor store.Actor, prefix string) store.Record {
		whole := firstRecord(s)
		all := s.make().(*corev1.ConfigMap)
		all.Data = map[string]string{}
		for i := range store.MaxStamps * 2 / 3 {
			name := fmt.Sprint(prefix, i)
			all.Data[name] = "x"
			one := s.make().(*corev1.ConfigMap)
			one.Data = map[string]string{name: "x"}
			set, ok := merger.Changed(s.key, whole.Value, encodeProtobuf(one))
			if !ok {
				t.Fatal("no fields")
			}
			whole.Stamps = append(whole.Stamps, store.Stamp{Time: store.HLC(2 + i), Actor: actor, Fields: set})
		}
		whole.Value = encodeProtobuf(all)
		return whole
	}
	p, q := side(1, "p"), side(2, "q")
	ab, ba := mustMerge(t, s.key, p, q), mustMerge(t, s.key, q, p)
	form := store.AppendRecord(nil, &ab)
	if !bytes.Equal(form, store.AppendRecord(nil, &ba)) {
		t.Error("differs the other way round")
	}
	if len(ab.Stamps) != store.MaxStamps {
		t.Errorf("%d stamps, want %d", len(ab.Stamps), store.MaxStamps)
	}
	if _, err := store.DecodeRecord(form); err != nil {
		t.Error(err)
	}
}
