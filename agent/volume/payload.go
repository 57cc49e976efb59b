package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// defaultTokenSeconds is the API's default for a projected token.
const defaultTokenSeconds = 3600

type files = map[string]volumeutil.FileProjection

// configuration is the Driver of the volumes that are filled from objects.
type configuration struct{ source Source }

// Setup fills the volume for the first time.
func (v *configuration) Setup(ctx context.Context, r *Request) (Mounted, error) {
	next, err := v.Refresh(ctx, r)
	return Mounted{Path: r.Dir, RefreshAt: next}, err
}

// Teardown has nothing to do: the directory is all there is.
func (*configuration) Teardown(context.Context, string, string, string) error { return nil }

// Refresh brings the volume up to what its objects say now.
func (v *configuration) Refresh(ctx context.Context, r *Request) (time.Time, error) {
	pod, vol, dir := r.Pod, r.Volume, r.Dir
	files, err := v.payload(ctx, pod, vol)
	if err != nil {
		return time.Time{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return time.Time{}, err
	}
	w, err := volumeutil.NewAtomicWriter(dir, "volume "+vol.Name)
	if err != nil {
		return time.Time{}, err
	}
	err = w.Write(files, func(sub string) error { return ownBy(filepath.Join(dir, sub), pod, false) })
	return tokensDue(vol, time.Now()), err
}

func hasSecrets(p *v1.ProjectedVolumeSource) bool {
	if p == nil {
		return false
	}
	for _, s := range p.Sources {
		if s.Secret != nil || s.ServiceAccountToken != nil {
			return true
		}
	}
	return false
}

func (v *configuration) payload(ctx context.Context, pod *v1.Pod, vol *v1.Volume) (files, error) {
	switch {
	case vol.ConfigMap != nil:
		return v.configMap(ctx, pod, vol.ConfigMap.Name, vol.ConfigMap.Items, mode(vol.ConfigMap.DefaultMode), optional(vol.ConfigMap.Optional))
	case vol.Secret != nil:
		return v.secret(ctx, pod, vol.Secret.SecretName, vol.Secret.Items, mode(vol.Secret.DefaultMode), optional(vol.Secret.Optional))
	case vol.DownwardAPI != nil:
		return downward(pod, vol.DownwardAPI.Items, mode(vol.DownwardAPI.DefaultMode))
	case vol.Projected != nil:
		return v.projected(ctx, pod, vol.Projected)
	}
	return nil, fmt.Errorf("volume %s: %w", vol.Name, ErrUnsupported)
}

func mode(m *int32) int32 {
	if m == nil {
		return 0o644
	}
	return *m
}

func optional(b *bool) bool { return b != nil && *b }

func (v *configuration) configMap(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode int32, optional bool) (files, error) {
	cm, err := v.source.ConfigMap(ctx, pod.Namespace, name)
	if apierrors.IsNotFound(err) && optional {
		return files{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("configMap %s/%s: %w", pod.Namespace, name, err)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, s := range cm.Data {
		data[k] = []byte(s)
	}
	for k, b := range cm.BinaryData {
		data[k] = b
	}
	return pick(data, items, mode, optional, "configMap "+name)
}

func (v *configuration) secret(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode int32, optional bool) (files, error) {
	s, err := v.source.Secret(ctx, pod.Namespace, name)
	if apierrors.IsNotFound(err) && optional {
		return files{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", pod.Namespace, name, err)
	}
	return pick(s.Data, items, mode, optional, "secret "+name)
}

// pick maps keys to files: all of them, or those the items name.
func pick(data map[string][]byte, items []v1.KeyToPath, mode int32, optional bool, what string) (files, error) {
	out := files{}
	if len(items) == 0 {
		for k, b := range data {
			out[k] = volumeutil.FileProjection{Data: b, Mode: mode}
		}
		return out, nil
	}
	for _, item := range items {
		b, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return nil, fmt.Errorf("%s references non-existent key %s", what, item.Key)
		}
		m := mode
		if item.Mode != nil {
			m = *item.Mode
		}
		out[item.Path] = volumeutil.FileProjection{Data: b, Mode: m}
	}
	return out, nil
}

func downward(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode int32) (files, error) {
	out := files{}
	for _, item := range items {
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = fieldpath.ExtractFieldPathAsString(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			text, err = resource.ExtractResourceValueByContainerName(item.ResourceFieldRef, pod, item.ResourceFieldRef.ContainerName)
		}
		if err != nil {
			return nil, fmt.Errorf("downwardAPI file %s: %w", item.Path, err)
		}
		m := mode
		if item.Mode != nil {
			m = *item.Mode
		}
		out[item.Path] = volumeutil.FileProjection{Data: []byte(text), Mode: m}
	}
	return out, nil
}

func (v *configuration) projected(ctx context.Context, pod *v1.Pod, p *v1.ProjectedVolumeSource) (files, error) {
	out := files{}
	for _, s := range p.Sources {
		got, err := v.projection(ctx, pod, s, mode(p.DefaultMode))
		if err != nil {
			return nil, err
		}
		for path, f := range got {
			out[path] = f
		}
	}
	return out, nil
}

func (v *configuration) projection(ctx context.Context, pod *v1.Pod, s v1.VolumeProjection, mode int32) (files, error) {
	switch {
	case s.ConfigMap != nil:
		return v.configMap(ctx, pod, s.ConfigMap.Name, s.ConfigMap.Items, mode, optional(s.ConfigMap.Optional))
	case s.Secret != nil:
		return v.secret(ctx, pod, s.Secret.Name, s.Secret.Items, mode, optional(s.Secret.Optional))
	case s.DownwardAPI != nil:
		return downward(pod, s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		return v.token(ctx, pod, s.ServiceAccountToken)
	}
	return nil, fmt.Errorf("projected source: %w", ErrUnsupported)
}

// token asks for a token bound to the pod. Its file is readable by the
// pod's own user only where that is known, as with the kubelet.
func (v *configuration) token(ctx context.Context, pod *v1.Pod, src *v1.ServiceAccountTokenProjection) (files, error) {
	seconds := int64(defaultTokenSeconds)
	if src.ExpirationSeconds != nil {
		seconds = *src.ExpirationSeconds
	}
	req := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef: &authv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
		},
	}}
	if src.Audience != "" {
		req.Spec.Audiences = []string{src.Audience}
	}
	got, err := v.source.Token(ctx, pod.Namespace, pod.Spec.ServiceAccountName, req)
	if err != nil {
		return nil, fmt.Errorf("token of service account %s/%s: %w", pod.Namespace, pod.Spec.ServiceAccountName, err)
	}
	mode := int32(0o644)
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		mode = 0o600
	}
	return files{src.Path: {Data: []byte(got.Status.Token), Mode: mode}}, nil
}

// tokensDue is when tokens in the volume should be renewed: at four fifths
// of their life, as the kubelet does. Zero when there are none.
func tokensDue(vol *v1.Volume, now time.Time) time.Time {
	var next metav1.Time
	if vol.Projected == nil {
		return next.Time
	}
	for _, s := range vol.Projected.Sources {
		if s.ServiceAccountToken == nil {
			continue
		}
		seconds := int64(defaultTokenSeconds)
		if e := s.ServiceAccountToken.ExpirationSeconds; e != nil {
			seconds = *e
		}
		at := now.Add(time.Duration(seconds) * time.Second * 4 / 5)
		if next.IsZero() || at.Before(next.Time) {
			next = metav1.NewTime(at)
		}
	}
	return next.Time
}
