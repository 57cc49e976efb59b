// Package static reads pods from files of a directory, as the kubelet does
// from its --pod-manifest-path: they run on this host whatever the API says.
//
// Always true: no error quotes a value of a file, which may be a secret and would
// be in an Event; a file that is bad, half-written or too large is reported and
// harms no other; while it is bad, the pod it was stays as it is; the same
// file gives the same pod uid on every reading, also after a restart, and a
// changed one another.
//
// The agent calls it, runs the pods, and shows them in the API.
package static

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // the decoder's kinds
	corev1 "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	kubetypes "k8s.io/kubernetes/pkg/kubelet/types"
	"k8s.io/kubernetes/pkg/util/hash"
)

var errNoName = errors.New("invalid pod: name is needed for the pod")

// Decode makes the pod of a manifest: upstream's decoding, defaults and
// validation (pkg/kubelet/config/common.go of 1.37, whose functions are not
// exported and whose watcher cannot be ended).
func Decode(data []byte, file, node string) (*v1.Pod, error) {
	json, err := utilyaml.ToJSON(data)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", notYAML(err))
	}
	obj, err := runtime.Decode(legacyscheme.Codecs.UniversalDecoder(), json)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", notObject(err))
	}
	pod, ok := obj.(*api.Pod)
	switch {
	case !ok:
		return nil, fmt.Errorf("invalid pod: it is a %s", strings.TrimPrefix(fmt.Sprintf("%T", obj), "*core."))
	case pod.Name == "":
		return nil, errNoName
	case pod.UID != "":
		// The kubelet takes it. It names files, and an API pod's would be ended
		// with the manifest.
		return nil, errors.New("invalid pod: metadata.uid: the host gives its static pods theirs; leave it out")
	}
	complete(pod, file, node)
	opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, nil, &pod.ObjectMeta, nil)
	if errs := validation.ValidatePodCreate(pod, opts); len(errs) > 0 {
		return nil, fmt.Errorf("invalid pod: %w", notValid(errs))
	}
	_, resource, err := podutil.HasAPIObjectReference(pod)
	if err != nil {
		return nil, fmt.Errorf("invalid pod: %w", err)
	}
	if resource != "" {
		return nil, fmt.Errorf("static pods may not reference %s", resource)
	}
	out := &v1.Pod{}
	if err := corev1.Convert_core_Pod_To_v1_Pod(pod, out, nil); err != nil {
		return nil, fmt.Errorf("invalid pod: %w", err)
	}
	return out, nil
}

// complete gives the pod the name, uid and place it has on this node.
func complete(pod *api.Pod, file, node string) {
	sum := fnv.New128a()
	hash.DeepHashObject(sum, pod)
	// That began anew, so where it comes from is added after.
	fmt.Fprintf(sum, "host:%s", node)
	fmt.Fprintf(sum, "file:%s", file)
	pod.UID = types.UID(hex.EncodeToString(sum.Sum(nil)))
	pod.Name = pod.Name + "-" + strings.ToLower(node)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Spec.NodeName = node
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[kubetypes.ConfigHashAnnotationKey] = string(pod.UID)
	pod.Annotations[kubetypes.ConfigSourceAnnotationKey] = kubetypes.FileSource
	helper.AddOrUpdateTolerationInPod(pod, &api.Toleration{Operator: "Exists", Effect: api.TaintEffectNoExecute})
	pod.Status.Phase = api.PodPending
}
