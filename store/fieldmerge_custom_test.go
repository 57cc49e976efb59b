package store_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func gvk(apiVersion, kind string) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(apiVersion, kind)
}

// custom is a custom resource, stored as JSON, whose schema nobody knows.
func custom() subject {
	return subject{
		key: "/registry/example.com/things/default/x",
		make: func() runtime.Object {
			return &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "example.com/v1", "kind": "Thing",
				"metadata": map[string]any{"name": "x", "namespace": "default", "uid": "u", "generation": int64(1)},
				"spec":     map[string]any{"size": int64(3), "list": []any{"a", "b"}, "ratio": 0.5},
			}}
		},
		decode: func(b []byte) runtime.Object {
			o, err := runtime.Decode(unstructured.UnstructuredJSONScheme, b)
			if err != nil {
				panic(err)
			}
			return o
		},
		encode: func(o runtime.Object) []byte {
			var b bytes.Buffer
			if err := unstructured.UnstructuredJSONScheme.Encode(o, &b); err != nil {
				panic(err)
			}
			return b.Bytes()
		},
		edit: editCustom,
		read: func(o runtime.Object) map[string]string {
			u := o.(*unstructured.Unstructured)
			owned := readMeta(u)
			if spec, ok := u.Object["spec"].(map[string]any); ok {
				for name, v := range spec {
					owned["spec "+name] = fmt.Sprint(v)
				}
			}
			return owned
		},
	}
}

func editCustom(r *rand.Rand, o runtime.Object, own string, owned map[string]string) {
	u := o.(*unstructured.Unstructured)
	spec := u.Object["spec"].(map[string]any)
	u.SetGeneration(u.GetGeneration() + 1)
	switch r.IntN(6) {
	case 0, 1:
		editMeta(r, u, own, owned)
	case 2:
		name := fmt.Sprint(own, r.IntN(3))
		spec[name] = int64(r.Uint32())
		owned["spec "+name] = fmt.Sprint(spec[name])
	case 3:
		nested, ok := spec["nested"].(map[string]any)
		switch {
		case !ok:
			spec["nested"] = map[string]any{}
		case r.IntN(3) == 0:
			delete(spec, "nested")
		case r.IntN(4) == 0:
			spec["nested"] = "text"
		default:
			nested[fmt.Sprint(r.IntN(3))] = map[string]any{"deep": fmt.Sprint("<", r.IntN(9), ">"), "none": nil}
		}
	case 4:
		spec["list"] = []any{fmt.Sprint(r.IntN(9)), map[string]any{"a": int64(1)}}
	case 5:
		status, ok := u.Object["status"].(map[string]any)
		if !ok {
			status = map[string]any{}
			u.Object["status"] = status
		}
		conditions, _ := status["conditions"].([]any)
		c := map[string]any{"type": fmt.Sprint("C", r.IntN(3)), "status": fmt.Sprint(r.IntN(3))}
		for i := range conditions {
			if conditions[i].(map[string]any)["type"] == c["type"] {
				conditions[i] = c
				c = nil
				break
			}
		}
		if c != nil {
			conditions = append(conditions, c)
		}
		status["conditions"] = conditions
	}
}
