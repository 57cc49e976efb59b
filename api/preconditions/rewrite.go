package preconditions

import (
	"bytes"
	"encoding/json"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// protobufMagic begins every object in protobuf; a runtime.Unknown follows.
var protobufMagic = []byte("k8s\x00")

func rewriteDeleteOptions(body []byte, local func(string) string) ([]byte, bool) {
	if rest, ok := bytes.CutPrefix(body, protobufMagic); ok {
		return rewriteProtobuf(rest, &metav1.DeleteOptions{}, func(o *metav1.DeleteOptions) bool {
			return rewriteOptions(o, local)
		})
	}
	return rewriteText(body, local, "preconditions", "resourceVersion")
}

func rewriteEviction(body []byte, local func(string) string) ([]byte, bool) {
	if rest, ok := bytes.CutPrefix(body, protobufMagic); ok {
		return rewriteProtobuf(rest, &policyv1.Eviction{}, func(e *policyv1.Eviction) bool {
			return rewriteOptions(e.DeleteOptions, local)
		})
	}
	return rewriteText(body, local, "deleteOptions", "preconditions", "resourceVersion")
}

func rewriteOptions(o *metav1.DeleteOptions, local func(string) string) bool {
	if o == nil || o.Preconditions == nil || o.Preconditions.ResourceVersion == nil {
		return false
	}
	before := *o.Preconditions.ResourceVersion
	after := local(before)
	o.Preconditions.ResourceVersion = &after
	return after != before
}

// message is what generated protobuf code has.
type message interface {
	Unmarshal([]byte) error
	Marshal() ([]byte, error)
}

// rewriteProtobuf changes the object inside the envelope and leaves the
// envelope as it is, so that the object keeps the version it was sent in.
func rewriteProtobuf[T message](body []byte, obj T, change func(T) bool) ([]byte, bool) {
	var envelope runtime.Unknown
	if envelope.Unmarshal(body) != nil || obj.Unmarshal(envelope.Raw) != nil || !change(obj) {
		return nil, false
	}
	var err error
	if envelope.Raw, err = obj.Marshal(); err != nil {
		return nil, false
	}
	changed, err := envelope.Marshal()
	return append(bytes.Clone(protobufMagic), changed...), err == nil
}

// rewriteText changes the string at path in JSON or YAML. JSON, which it
// returns, is also YAML, so the content type stays true.
func rewriteText(body []byte, local func(string) string, path ...string) ([]byte, bool) {
	text, err := yaml.YAMLToJSON(body)
	if err != nil {
		return nil, false
	}
	var root map[string]any
	if decodeNumbers(text, &root) != nil {
		return nil, false
	}
	at := root
	for _, step := range path[:len(path)-1] {
		at, _ = at[step].(map[string]any)
	}
	last := path[len(path)-1]
	if !replace(at, last, local) {
		return nil, false
	}
	changed, err := json.Marshal(root)
	return changed, err == nil
}

func replace(in map[string]any, field string, local func(string) string) bool {
	before, ok := in[field].(string)
	if !ok {
		return false
	}
	in[field] = local(before)
	return in[field] != before
}

// decodeNumbers keeps numbers as they were written.
func decodeNumbers(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(into)
}

// rewriteJSONPatch changes what a patch (RFC 6902) tests the version against.
func rewriteJSONPatch(body []byte, local func(string) string) ([]byte, bool) {
	var operations []map[string]any
	if decodeNumbers(body, &operations) != nil {
		return nil, false
	}
	changed := false
	for _, o := range operations {
		if o["op"] == "test" && o["path"] == "/metadata/resourceVersion" {
			changed = replace(o, "value", local) || changed
		}
	}
	if !changed {
		return nil, false
	}
	text, err := json.Marshal(operations)
	return text, err == nil
}
