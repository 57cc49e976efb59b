package fields

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Deleting reports whether a stored object is on its way out: it has a
// deletionTimestamp. What cannot be read has none.
func Deleting(value []byte) bool {
	// Of every type of the API metadata is the first field.
	var object metav1.PartialObjectMetadata
	if raw, ok := bytes.CutPrefix(value, envelope); ok {
		var unknown runtime.Unknown
		if unknown.Unmarshal(raw) != nil || object.Unmarshal(unknown.Raw) != nil {
			return false
		}
	} else if json.Unmarshal(value, &object) != nil {
		return false
	}
	return object.DeletionTimestamp != nil
}
