package support

import (
	"context"
	"io"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/warning"
)

// PluginName is the plug-in's in the admission chain.
const PluginName = "ShoalSupport"

// maxWarnings bounds the warnings of one request; each is a header line.
const maxWarnings = 16

// Register makes the plug-in known to plugins.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return &plugin{admission.NewHandler(admission.Create, admission.Update)}, nil
	})
}

type plugin struct{ *admission.Handler }

var _ admission.ValidationInterface = (*plugin)(nil)

// Validate implements admission.ValidationInterface.
func (*plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	if why, ok := idleKinds[a.GetResource().GroupResource()]; ok {
		warning.AddWarning(ctx, "", a.GetKind().Kind+": "+why)
		return nil
	}
	for i, w := range fieldWarnings(a.GetObject()) {
		if i == maxWarnings {
			break
		}
		warning.AddWarning(ctx, "", w)
	}
	return nil
}
