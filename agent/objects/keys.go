package objects

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// keyList collects objects of one namespace, each once.
type keyList struct {
	namespace string
	keys      []key
}

func (l *keyList) add(r resource, name string) {
	if k := (key{r, l.namespace, name}); !slices.Contains(l.keys, k) {
		l.keys = append(l.keys, k)
	}
}

// volumeKeys are the objects the pod's volumes are filled from.
func volumeKeys(pod *v1.Pod) []key {
	l := keyList{namespace: pod.Namespace}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			l.add(configMaps, v.ConfigMap.Name)
		case v.Secret != nil:
			l.add(secrets, v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					l.add(configMaps, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					l.add(secrets, s.Secret.Name)
				}
			}
		}
	}
	return l.keys
}

// environmentKeys are the objects that the environment of the pod's containers
// is made of.
func environmentKeys(pod *v1.Pod) []key {
	l := keyList{namespace: pod.Namespace}
	for c := range podutil.ContainerIter(&pod.Spec, podutil.AllContainers) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				l.add(configMaps, from.ConfigMapRef.Name)
			}
			if from.SecretRef != nil {
				l.add(secrets, from.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom == nil {
				continue
			}
			if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
				l.add(configMaps, ref.Name)
			}
			if ref := e.ValueFrom.SecretKeyRef; ref != nil {
				l.add(secrets, ref.Name)
			}
		}
	}
	return l.keys
}
