package loadbalancer

import (
	"context"
	"io"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"shoal/api/loadbalancer/v1alpha1"
)

// PluginName is the plug-in's in the admission chain.
const PluginName = "ShoalAddressPools"

// Register makes the plug-in known that refuses pools whose ranges cannot be used,
// as far as their schema cannot tell.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return &plugin{admission.NewHandler(admission.Create, admission.Update)}, nil
	})
}

type plugin struct{ *admission.Handler }

var _ admission.ValidationInterface = (*plugin)(nil)

// Validate implements admission.ValidationInterface. What a pool had before is let be.
func (*plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != v1alpha1.Pools.GroupResource() || a.GetSubresource() != "" {
		return nil
	}
	pool, err := decode(a.GetObject())
	if err != nil {
		return nil // the schema refuses it
	}
	var had []string
	if old, err := decode(a.GetOldObject()); err == nil {
		had = old.Spec.Addresses
	}
	var errs field.ErrorList
	for i, s := range pool.Spec.Addresses {
		if _, err := ParseRange(s); err != nil && !slices.Contains(had, s) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "addresses").Index(i), s, err.Error()))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(a.GetKind().GroupKind(), pool.Name, errs)
}
