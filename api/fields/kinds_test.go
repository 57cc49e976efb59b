package fields_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"shoal/api/fields"
	"shoal/store"
)

// TestEveryKind takes the fields that Changed names between two random objects
// of every kind of the built-in API from one to the other, which must give the
// other to the byte: nothing unnamed, nothing lost, no order changed.
func TestEveryKind(t *testing.T) {
	m := fields.New(clientscheme.Scheme)
	kinds := 0
	for _, gvk := range sortedKinds() {
		made, err := clientscheme.Scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		_, isObject := made.(metav1.Object)
		if _, ok := made.(interface{ Unmarshal([]byte) error }); !ok || !isObject {
			continue
		}
		kinds++
		for seed := range uint64(20) {
			r := rand.New(rand.NewPCG(seed, 3))
			before, after := fill(r, gvk), fill(r, gvk)
			if seed%2 == 0 { // a small change
				after = before.DeepCopyObject()
				touch(r, reflect.ValueOf(after).Elem())
			}
			after.(metav1.Object).SetGeneration(before.(metav1.Object).GetGeneration() + 1)
			checkTaken(t, m, seed, gvk, before, after)
		}
	}
	if kinds < 60 {
		t.Errorf("only %d kinds", kinds)
	}
}

func checkTaken(t *testing.T, m *fields.Merger, seed uint64, gvk schema.GroupVersionKind, before, after kube.Object) {
	t.Helper()
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	b, a := encode(t, apiVersion, kind, before), encode(t, apiVersion, kind, after)
	set, ok := m.Changed("/registry/things/x", b, a)
	if !ok {
		t.Fatalf("%s, seed %d: no fields", gvk, seed)
	}
	write := store.Stamp{Time: 2, Actor: 1}
	other := &store.Record{Value: a, Stamps: []store.Stamp{{Time: 2, Actor: 1, Fields: set}}}
	value, left, err := m.Join("/registry/things/x", &store.Record{Value: b}, other, []store.Stamp{write})
	if err != nil {
		t.Fatalf("%s, seed %d: %v", gvk, seed, err)
	}
	if !bytes.Equal(value, a) || !bytes.Equal(left[0], set) {
		t.Fatalf("%s, seed %d: got\n%q\nwant\n%q\nset %q", gvk, seed, value, a, set)
	}
}

func sortedKinds() []schema.GroupVersionKind {
	var all []schema.GroupVersionKind
	for gvk := range clientscheme.Scheme.AllKnownTypes() {
		all = append(all, gvk)
	}
	slices.SortFunc(all, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return all
}

func fill(r *rand.Rand, gvk schema.GroupVersionKind) kube.Object {
	o, err := clientscheme.Scheme.New(gvk)
	if err != nil {
		panic(err)
	}
	fillValue(r, reflect.ValueOf(o).Elem(), 0)
	return o
}

// fillValue sets about half of everything.
func fillValue(r *rand.Rand, v reflect.Value, depth int) {
	switch set := v.Addr().Interface().(type) {
	case *metav1.TypeMeta:
		return
	case *metav1.Time:
		*set = metav1.Unix(int64(r.Uint32()), 0)
		return
	case *metav1.MicroTime:
		*set = metav1.NewMicroTime(time.UnixMicro(int64(r.Uint32()) * 1e6))
		return
	case *resource.Quantity:
		*set = *resource.NewMilliQuantity(r.Int64N(1e6), resource.DecimalSI)
		return
	case *intstr.IntOrString:
		*set = intstr.FromInt32(r.Int32())
		return
	case *[]byte: // nil bytes in a map would not survive protobuf itself
		*set = fmt.Append(nil, r.IntN(9))
		return
	case *kube.RawExtension:
		set.Raw = fmt.Appendf(nil, `{"x":%d}`, r.IntN(9))
		return
	case *metav1.FieldsV1:
		*set = *metav1.NewFieldsV1(fmt.Sprintf(`{"f:%d":{}}`, r.IntN(9)))
		return
	}
	some := r.IntN(2) == 0 && depth < 12
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillValue(r, v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		if some {
			v.Set(reflect.New(v.Type().Elem()))
			fillValue(r, v.Elem(), depth+1)
		}
	case reflect.Slice:
		if some {
			v.Set(reflect.MakeSlice(v.Type(), 1+r.IntN(4), 4))
			for i := range v.Len() {
				fillValue(r, v.Index(i), depth+1)
			}
		}
	case reflect.Map:
		if some {
			v.Set(reflect.MakeMap(v.Type()))
			for range 1 + r.IntN(4) {
				entry := reflect.New(v.Type().Elem()).Elem()
				fillValue(r, entry, depth+1)
				v.SetMapIndex(reflect.ValueOf(fmt.Sprint("k", r.IntN(6))).Convert(v.Type().Key()), entry)
			}
		}
	case reflect.String:
		v.SetString(fmt.Sprint(r.IntN(6)))
	case reflect.Bool:
		v.SetBool(some)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(r.Int64N(6))
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(256)))
	}
}

// touch fills one field somewhere anew.
func touch(r *rand.Rand, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Struct && v.NumField() > 1 && r.IntN(5) > 0:
		if i := 1 + r.IntN(v.NumField()-1); v.Type().Field(i).IsExported() {
			touch(r, v.Field(i))
		}
	case v.Kind() == reflect.Slice && v.Len() > 0 && r.IntN(4) > 0:
		touch(r, v.Index(r.IntN(v.Len())))
	case v.Kind() == reflect.Pointer && !v.IsNil() && r.IntN(4) > 0:
		touch(r, v.Elem())
	default:
		v.SetZero()
		fillValue(r, v, 6)
	}
}
