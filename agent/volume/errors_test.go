package volume

import (
	"errors"
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestWhatPasses(t *testing.T) {
	failed := func(err error) error { return &MountError{Volume: "v", Spec: "v", Err: err} }
	absent := failed(fmt.Errorf("failed to fetch token: %w", apierrors.NewNotFound(v1.Resource("pod"), "p")))
	unbound := failed(fmt.Errorf("error processing PVC: %w", ErrNotBound))
	wrong := failed(errors.New("hostPath type check failed"))
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"what the API lacks":     {absent, true},
		"a claim not bound":      {errors.Join(unbound), true},
		"both":                   {errors.Join(absent, unbound), true},
		"a wrong path":           {wrong, false},
		"a wrong one among them": {errors.Join(absent, wrong), false},
		"no volume":              {errors.New("attach network"), false},
		"not found elsewhere":    {apierrors.NewNotFound(v1.Resource("runtimeclass"), "r"), false},
	} {
		if Passing(test.err) != test.want {
			t.Errorf("%s: want %t", name, test.want)
		}
	}
}
