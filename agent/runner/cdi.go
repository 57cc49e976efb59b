package runner

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"shoal/agent/oci"
)

// injectCDI adds to a container what the files in dirs say of devices named
// KIND=NAME (the Container Device Interface): containerd before 2 does not. The
// files are read each time; nothing watches them.
func injectCDI(dirs, names []string, spec *specs.Spec) error {
	if len(names) == 0 {
		return nil
	}
	options := []cdi.Option{cdi.WithAutoRefresh(false)}
	if len(dirs) > 0 {
		options = append(options, cdi.WithSpecDirs(dirs...))
	}
	cache, err := cdi.NewCache(options...)
	if err != nil {
		return fmt.Errorf("%w: read CDI files: %w", oci.ErrCreate, err)
	}
	if missing, err := cache.InjectDevices(spec, names...); err != nil {
		hint := ""
		if len(missing) > 0 {
			hint = "; no readable file in " + strings.Join(cache.GetSpecDirectories(), ", ") + " has " + strings.Join(missing, ", ")
		}
		return fmt.Errorf("%w: CDI device injection failed: %w%s", oci.ErrCreate, err, hint)
	}
	return nil
}
