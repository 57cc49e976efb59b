package agent

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestWhenRelated: what the API says of a pod that it has yet to hear of is
// asked again, and what it says of anything else is final.
func TestWhenRelated(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		again bool
	}{
		"not allowed":      {apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "s", nil), true},
		"no pod":           {apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "p"), true},
		"no pod in a list": {apierrors.NewNotFound(schema.GroupResource{Resource: "pod"}, "p"), true},
		"no secret":        {apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "s"), false},
		"no such account":  {apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccounts"}, "a"), false},
		"a server at work": {apierrors.NewTooManyRequests("later", 1), false},
	} {
		asked := 0
		got, err := whenRelated(t.Context(), func() (string, error) {
			if asked++; asked == 1 {
				return "", test.err
			}
			return "value", nil
		})
		if again := asked > 1; again != test.again || again != (err == nil && got == "value") {
			t.Errorf("%s: asked %d times, got %q, %v", name, asked, got, err)
		}
	}
}
