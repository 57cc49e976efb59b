package support

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/batch"
	api "k8s.io/kubernetes/pkg/apis/core"
)

// fieldWarnings names the fields of obj that have no effect here. Objects come
// in upstream's internal types.
func fieldWarnings(obj runtime.Object) []string {
	switch o := obj.(type) {
	case *api.Service:
		return service(&o.Spec)
	case *api.Pod:
		return pod("spec", &o.Spec)
	case *api.PodTemplate:
		return pod("template.spec", &o.Template.Spec)
	case *api.ReplicationController:
		if o.Spec.Template == nil {
			return nil
		}
		return pod("spec.template.spec", &o.Spec.Template.Spec)
	case *apps.Deployment:
		return pod("spec.template.spec", &o.Spec.Template.Spec)
	case *apps.ReplicaSet:
		return pod("spec.template.spec", &o.Spec.Template.Spec)
	case *apps.DaemonSet:
		return pod("spec.template.spec", &o.Spec.Template.Spec)
	case *apps.StatefulSet:
		return pod("spec.template.spec", &o.Spec.Template.Spec)
	case *batch.Job:
		return pod("spec.template.spec", &o.Spec.Template.Spec)
	case *batch.CronJob:
		return pod("spec.jobTemplate.spec.template.spec", &o.Spec.JobTemplate.Spec.Template.Spec)
	}
	return nil
}

// notes collects warnings about fields below a path.
type notes struct {
	path string
	said []string
}

func (n *notes) when(unsupported bool, field, consequence string) {
	if unsupported {
		n.said = append(n.said, fmt.Sprintf("%s.%s: %s", n.path, field, consequence))
	}
}

const (
	refused  = "not supported by this version of shoal; the pod will be refused with an event"
	noEffect = "stored, but without effect in this version of shoal"
)

func service(s *api.ServiceSpec) []string {
	n := &notes{path: "spec"}
	for i, p := range s.Ports {
		n.when(p.Protocol == api.ProtocolSCTP, fmt.Sprintf("ports[%d].protocol", i), "SCTP is not forwarded by this version of shoal")
	}
	return n.said
}

func pod(path string, s *api.PodSpec) []string {
	n := &notes{path: path}
	n.when(s.SecurityContext != nil && s.SecurityContext.SELinuxOptions != nil, "securityContext.seLinuxOptions", noEffect)
	n.when(s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil, "securityContext.windowsOptions", noEffect)
	n.when(len(s.ResourceClaims) > 0, "resourceClaims", refused)
	for i, v := range s.Volumes {
		n.when(!volumeWorks(&v.VolumeSource) && mounted(s, v.Name), fmt.Sprintf("volumes[%d]", i), "this volume type is "+refused)
	}
	containers(n, "initContainers", s.InitContainers, s)
	containers(n, "containers", s.Containers, s)
	return n.said
}

// mounted says that a container has the volume: one that none has is never made.
func mounted(s *api.PodSpec, volume string) bool {
	return slices.ContainsFunc(slices.Concat(s.InitContainers, s.Containers), func(c api.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m api.VolumeMount) bool { return m.Name == volume }) ||
			slices.ContainsFunc(c.VolumeDevices, func(d api.VolumeDevice) bool { return d.Name == volume })
	})
}

func volumeWorks(v *api.VolumeSource) bool {
	return v.EmptyDir != nil || v.HostPath != nil || v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil || v.Image != nil ||
		v.PersistentVolumeClaim != nil || v.Ephemeral != nil
}

func containers(n *notes, list string, all []api.Container, s *api.PodSpec) {
	for i, c := range all {
		field := func(name string) string { return fmt.Sprintf("%s[%d].%s", list, i, name) }
		for j, p := range c.Ports {
			n.when(p.HostPort != 0 && !s.HostNetwork && p.Protocol == api.ProtocolSCTP, field(fmt.Sprintf("ports[%d].hostPort", j)), "SCTP is not forwarded by this version of shoal")
		}
		if sc := c.SecurityContext; sc != nil {
			n.when(sc.SELinuxOptions != nil, field("securityContext.seLinuxOptions"), noEffect)
			n.when(sc.WindowsOptions != nil, field("securityContext.windowsOptions"), noEffect)
		}
		for j, v := range c.Env {
			n.when(v.ValueFrom != nil && v.ValueFrom.FileKeyRef != nil, field(fmt.Sprintf("env[%d].valueFrom.fileKeyRef", j)), refused)
		}
	}
}
