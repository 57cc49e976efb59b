package fields_test

import (
	"bytes"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"shoal/api/fields"
)

func TestDeleting(t *testing.T) {
	s := clientscheme.Scheme
	at := metav1.Now()
	for name, serializer := range map[string]runtime.Serializer{
		"protobuf": protobuf.NewSerializer(s, s),
		"json":     json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{}),
	} {
		for _, deleted := range []*metav1.Time{nil, &at} {
			pod := &v1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{
				Name: "p", DeletionTimestamp: deleted, Annotations: map[string]string{"deletionTimestamp": "2020-01-01T00:00:00Z"},
			}, Spec: v1.PodSpec{NodeName: "n", Containers: []v1.Container{{Name: "c"}}}}
			var value bytes.Buffer
			if err := serializer.Encode(pod, &value); err != nil {
				t.Fatal(err)
			}
			if got := fields.Deleting(value.Bytes()); got != (deleted != nil) {
				t.Errorf("%s, deleted %t: %t", name, deleted != nil, got)
			}
			for cut := range value.Len() {
				fields.Deleting(value.Bytes()[:cut])
			}
		}
	}
	if fields.Deleting(nil) || fields.Deleting([]byte("x")) {
		t.Error("what is no object is being deleted")
	}
}
