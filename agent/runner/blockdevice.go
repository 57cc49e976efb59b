package runner

import (
	"fmt"

	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
)

// addBlockDevices gives the container the devices of its block volumes, and
// the right to use them.
func (w *worker) addBlockDevices(pod *v1.Pod, c *v1.Container, spec *specs.Spec) error {
	for _, d := range c.VolumeDevices {
		vol, ok := w.r.Volumes.Mounted(pod.UID, d.Name)
		if !ok || !vol.Block {
			return fmt.Errorf("cannot find volume %q to pass into container %q", d.Name, c.Name)
		}
		device, err := oci.DeviceFromPath(vol.Path)
		if err != nil {
			return fmt.Errorf("volumeDevice %s: %w", d.Name, err)
		}
		device.Path = d.DevicePath
		access := "mrw"
		if vol.ReadOnly {
			access = "r"
		}
		spec.Linux.Devices = append(spec.Linux.Devices, *device)
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: access,
		})
	}
	return nil
}
