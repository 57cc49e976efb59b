package runner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kubernetes/pkg/fieldpath"

	"shoal/agent/expand"
	"shoal/agent/oci"
	"shoal/agent/secretspec"
	"shoal/agent/volume"
)

// environment is the container's environment in its final order: services,
// then envFrom, then env, which may refer to what came before.
func (w *worker) environment(ctx context.Context, pod *v1.Pod, c *v1.Container) ([]oci.EnvVar, error) {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	services, err := w.r.Source.ServiceEnv(ctx, pod.Namespace, links)
	if err != nil {
		return nil, fmt.Errorf("read services for the environment: %w", err)
	}
	e := envBuilder{values: map[string]oci.EnvVar{}, services: services}
	for name, value := range services {
		if err := e.size.Add(len(name) + 1 + len(value)); err != nil {
			return nil, fmt.Errorf("environment variable %s of a service: %w", name, err)
		}
	}
	nodename, err := w.r.nodename(pod)
	if err != nil {
		return nil, err
	}
	if err := e.put(oci.EnvVar{Name: "HOSTNAME", Value: nodename}); err != nil {
		return nil, err
	}
	for _, from := range c.EnvFrom {
		if err := w.envFrom(ctx, pod, from, &e); err != nil {
			return nil, err
		}
	}
	for _, v := range c.Env {
		value, set, err := w.envValue(ctx, pod, c, v, &e)
		if err != nil {
			return nil, err
		}
		if set {
			value.Name = v.Name
			if err := e.put(value); err != nil {
				return nil, err
			}
		}
	}
	return e.result(), nil
}

// envBuilder keeps variables in order of first mention, with the last value.
type envBuilder struct {
	order    []string
	values   map[string]oci.EnvVar
	services map[string]string
	size     expand.Size // of the services' and the values
}

// put adds a variable, unless exec(2) would not take it.
func (e *envBuilder) put(v oci.EnvVar) error {
	old, own := e.values[v.Name]
	if service, ok := e.services[v.Name]; ok && !own {
		old = oci.EnvVar{Name: v.Name, Value: service}
	}
	if old.Name != "" {
		e.size.Remove(len(old.Name) + 1 + len(old.Value))
	}
	if err := e.size.Add(len(v.Name) + 1 + len(v.Value)); err != nil {
		return fmt.Errorf("environment variable %s: %w", v.Name, err)
	}
	if !own {
		e.order = append(e.order, v.Name)
	}
	e.values[v.Name] = v
	return nil
}

// expand replaces $(NAME) by what came before. A value made from a secret one
// is as secret.
func (e *envBuilder) expand(v v1.EnvVar) (oci.EnvVar, error) {
	secret := false
	value, err := expand.String(v.Value, expand.StringMax(), func(name string) (string, bool) {
		if v, ok := e.values[name]; ok {
			secret = secret || v.Secret
			return v.Value, true
		}
		service, ok := e.services[name]
		return service, ok
	})
	if err != nil {
		return oci.EnvVar{}, fmt.Errorf("environment variable %s: %w", v.Name, err)
	}
	return oci.EnvVar{Value: value, Secret: secret}, nil
}

func (e *envBuilder) result() []oci.EnvVar {
	out := make([]oci.EnvVar, 0, len(e.services)+len(e.order))
	for _, name := range slices.Sorted(maps.Keys(e.services)) {
		if _, own := e.values[name]; !own {
			out = append(out, oci.EnvVar{Name: name, Value: e.services[name]})
		}
	}
	for _, name := range e.order {
		out = append(out, e.values[name])
	}
	return out
}

func (w *worker) envFrom(ctx context.Context, pod *v1.Pod, from v1.EnvFromSource, e *envBuilder) error {
	data := map[string]string{}
	var optional *bool
	var err error
	secret := ""
	switch {
	case from.ConfigMapRef != nil:
		optional = from.ConfigMapRef.Optional
		var cm *v1.ConfigMap
		if cm, err = w.r.Source.ConfigMap(ctx, pod.Namespace, from.ConfigMapRef.Name); err == nil {
			data = cm.Data
		}
	case from.SecretRef != nil:
		optional = from.SecretRef.Optional
		var s *v1.Secret
		if s, err = w.r.Source.Secret(ctx, pod.Namespace, from.SecretRef.Name); err == nil {
			for k, b := range s.Data {
				data[k] = string(b)
			}
			secret = from.SecretRef.Name
		}
	}
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		name := from.Prefix + k
		if len(validation.IsRelaxedEnvVarName(name)) != 0 {
			continue
		}
		v := oci.EnvVar{Name: name, Value: data[k]}
		if secret != "" {
			if v, err = secretVar(pod.Namespace, secret, k, data[k]); err != nil {
				return err
			}
			v.Name = name
		}
		if err := e.put(v); err != nil {
			return err
		}
	}
	return nil
}

// secretVar is a variable whose value stays out of files. An error names the
// secret and its key, never the value.
func secretVar(namespace, secret, key, value string) (oci.EnvVar, error) {
	if err := secretspec.Check(value); err != nil {
		return oci.EnvVar{}, fmt.Errorf("key %s in Secret %s/%s: %w", key, namespace, secret, err)
	}
	return oci.EnvVar{Value: value, Secret: true}, nil
}

// envValue gives a variable without its name, and whether it is set at all.
func (w *worker) envValue(ctx context.Context, pod *v1.Pod, c *v1.Container, v v1.EnvVar, e *envBuilder) (oci.EnvVar, bool, error) {
	if v.ValueFrom == nil {
		value, err := e.expand(v)
		return value, true, err
	}
	switch from := v.ValueFrom; {
	case from.FieldRef != nil:
		value, err := w.fieldValue(pod, from.FieldRef.FieldPath)
		return oci.EnvVar{Value: value}, true, err
	case from.ResourceFieldRef != nil:
		value, err := volume.ResourceField(from.ResourceFieldRef, pod, c, w.r.Volumes.NodeAllocatable())
		return oci.EnvVar{Value: value}, true, err
	case from.ConfigMapKeyRef != nil:
		value, set, err := w.configMapKey(ctx, pod, from.ConfigMapKeyRef)
		return oci.EnvVar{Value: value}, set, err
	case from.SecretKeyRef != nil:
		return w.secretKey(ctx, pod, from.SecretKeyRef)
	}
	return oci.EnvVar{}, false, fmt.Errorf("env %s: this valueFrom is not supported here", v.Name)
}

func (w *worker) fieldValue(pod *v1.Pod, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(w.hostIPs()), nil
	case "status.hostIPs":
		return strings.Join(w.hostIPs(), ","), nil
	case "status.podIP":
		return first(w.podIPs()), nil
	case "status.podIPs":
		return strings.Join(w.podIPs(), ","), nil
	}
	return fieldpath.ExtractFieldPathAsString(pod, path)
}

func (w *worker) configMapKey(ctx context.Context, pod *v1.Pod, ref *v1.ConfigMapKeySelector) (string, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	cm, err := w.r.Source.ConfigMap(ctx, pod.Namespace, ref.Name)
	if apierrors.IsNotFound(err) && optional {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	value, ok := cm.Data[ref.Key]
	if !ok && !optional {
		return "", false, fmt.Errorf("couldn't find key %s in ConfigMap %s/%s", ref.Key, pod.Namespace, ref.Name)
	}
	return value, ok, nil
}

func (w *worker) secretKey(ctx context.Context, pod *v1.Pod, ref *v1.SecretKeySelector) (oci.EnvVar, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	s, err := w.r.Source.Secret(ctx, pod.Namespace, ref.Name)
	if apierrors.IsNotFound(err) && optional {
		return oci.EnvVar{}, false, nil
	}
	if err != nil {
		return oci.EnvVar{}, false, err
	}
	value, ok := s.Data[ref.Key]
	if !ok && !optional {
		return oci.EnvVar{}, false, fmt.Errorf("couldn't find key %s in Secret %s/%s", ref.Key, pod.Namespace, ref.Name)
	}
	if !ok {
		return oci.EnvVar{}, false, nil
	}
	v, err := secretVar(pod.Namespace, ref.Name, ref.Key, string(value))
	return v, true, err
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
