package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// configuration is the Driver of the volumes that are filled from objects.
type configuration struct {
	source       Source
	allocatable  func() v1.ResourceList
	certificates func() Certificates

	mu     sync.Mutex
	tokens map[tokenKey]tokenTimes // guarded by mu
}

type files = map[string]volumeutil.FileProjection

// defaultMode is the API's default for files of these volumes.
const defaultMode = int32(0o644)

// Setup fills the volume for the first time in this daemon's life.
func (c *configuration) Setup(ctx context.Context, r *Request) (Mounted, error) {
	dropUnfinished(r.Dir)
	next, err := c.Refresh(ctx, r)
	return Mounted{Path: r.Dir, ReadOnly: true, RefreshAt: next}, err
}

// Teardown has nothing to do: the directory is all there is.
func (*configuration) Teardown(context.Context, string, string, string) error { return nil }

// Refresh brings the volume up to what its objects say now. When it cannot,
// what was there stays.
func (c *configuration) Refresh(ctx context.Context, r *Request) (time.Time, error) {
	files, next, err := c.payload(ctx, r)
	if err != nil {
		return time.Time{}, err
	}
	write := func() error {
		err := c.write(r, files)
		if err != nil {
			dropUnfinished(r.Dir)
		}
		return err
	}
	if r.write == nil {
		return next, write()
	}
	err = r.write(write)
	if errors.Is(err, errGone) {
		c.forget(r.Pod.UID)
	}
	return next, err
}

func (c *configuration) write(r *Request, files files) error {
	if err := os.MkdirAll(r.Dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(r.Dir, 0o777); err != nil { // whatever the umask is
		return err
	}
	if len(r.Pod.Spec.Volumes) > 1 {
		if err := volumeutil.MakeNestedMountpoints(r.Volume.Name, r.Dir, *r.Pod); err != nil {
			return err
		}
	}
	w, err := volumeutil.NewAtomicWriter(r.Dir, "volume "+r.Volume.Name)
	if err != nil {
		return err
	}
	return w.Write(files, func(string) error { return GiveToGroup(r.Dir, r.Pod, true, nil) })
}

// dropUnfinished removes what a write left that did not come to its end,
// because the disk was full or the daemon died: the writer would stumble over
// the link, and never remove the directories.
func dropUnfinished(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // there is no volume yet
	}
	current, _ := os.Readlink(filepath.Join(dir, "..data"))
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "..") && name != "..data" && name != current {
			_ = os.RemoveAll(filepath.Join(dir, name)) // Write says what is wrong
		}
	}
}

func (c *configuration) payload(ctx context.Context, r *Request) (files, time.Time, error) {
	vol := r.Volume
	switch {
	case vol.ConfigMap != nil:
		got, err := c.configMap(ctx, r.Pod, vol.ConfigMap.Name, vol.ConfigMap.Items, vol.ConfigMap.DefaultMode, vol.ConfigMap.Optional)
		return got, time.Time{}, err
	case vol.Secret != nil:
		got, err := c.secret(ctx, r.Pod, vol.Secret.SecretName, vol.Secret.Items, vol.Secret.DefaultMode, vol.Secret.Optional)
		return got, time.Time{}, err
	case vol.DownwardAPI != nil:
		got, err := c.downward(r.Pod, vol.DownwardAPI.Items, vol.DownwardAPI.DefaultMode)
		return got, time.Time{}, err
	}
	return c.projected(ctx, r)
}

func orDefault(mode *int32) *int32 {
	if mode == nil {
		m := defaultMode
		return &m
	}
	return mode
}

func isTrue(b *bool) bool { return b != nil && *b }

func (c *configuration) configMap(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode *int32, optional *bool) (files, error) {
	cm, err := c.source.ConfigMap(ctx, pod.Namespace, name)
	switch {
	case apierrors.IsNotFound(err) && isTrue(optional):
		cm = &v1.ConfigMap{}
	case err != nil:
		return nil, err
	}
	return configmap.MakePayload(items, cm, orDefault(mode), nil, isTrue(optional))
}

func (c *configuration) secret(ctx context.Context, pod *v1.Pod, name string, items []v1.KeyToPath, mode *int32, optional *bool) (files, error) {
	s, err := c.source.Secret(ctx, pod.Namespace, name)
	switch {
	case apierrors.IsNotFound(err) && isTrue(optional):
		s = &v1.Secret{}
	case err != nil:
		return nil, err
	}
	return secret.MakePayload(items, s, orDefault(mode), nil, isTrue(optional))
}

func (c *configuration) downward(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode *int32) (files, error) {
	out := files{}
	var errs []error
	for _, item := range items {
		text, err := c.downwardValue(pod, &item)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m := *orDefault(mode)
		if item.Mode != nil {
			m = *item.Mode
		}
		out[filepath.Clean(item.Path)] = volumeutil.FileProjection{Data: []byte(text), Mode: m}
	}
	return out, utilerrors.NewAggregate(errs)
}

func (c *configuration) downwardValue(pod *v1.Pod, item *v1.DownwardAPIVolumeFile) (string, error) {
	switch {
	case item.FieldRef != nil:
		return fieldpath.ExtractFieldPathAsString(pod, item.FieldRef.FieldPath)
	case item.ResourceFieldRef != nil:
		return ResourceField(item.ResourceFieldRef, pod, nil, c.allocatable())
	}
	return "", nil
}

func hasSecrets(p *v1.ProjectedVolumeSource) bool {
	if p == nil {
		return false
	}
	for _, s := range p.Sources {
		if s.Secret != nil || s.ServiceAccountToken != nil || s.PodCertificate != nil {
			return true
		}
	}
	return false
}

func (c *configuration) projected(ctx context.Context, r *Request) (files, time.Time, error) {
	out := files{}
	var next time.Time
	var errs []error
	for i, s := range r.Volume.Projected.Sources {
		got, due, err := c.projection(ctx, r, i, s)
		errs = append(errs, err)
		if !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
		for path, f := range got {
			out[path] = f
		}
	}
	return out, next, utilerrors.NewAggregate(errs)
}

func (c *configuration) projection(ctx context.Context, r *Request, i int, s v1.VolumeProjection) (files, time.Time, error) {
	mode := r.Volume.Projected.DefaultMode
	switch {
	case s.ConfigMap != nil:
		got, err := c.configMap(ctx, r.Pod, s.ConfigMap.Name, s.ConfigMap.Items, mode, s.ConfigMap.Optional)
		return got, time.Time{}, err
	case s.Secret != nil:
		got, err := c.secret(ctx, r.Pod, s.Secret.Name, s.Secret.Items, mode, s.Secret.Optional)
		return got, time.Time{}, err
	case s.DownwardAPI != nil:
		got, err := c.downward(r.Pod, s.DownwardAPI.Items, mode)
		return got, time.Time{}, err
	case s.ServiceAccountToken != nil:
		return c.token(ctx, r, s.ServiceAccountToken, *orDefault(mode))
	case s.ClusterTrustBundle != nil:
		return c.trustBundle(ctx, r, s.ClusterTrustBundle, *orDefault(mode))
	case s.PodCertificate != nil:
		return c.podCertificate(ctx, r, i, s.PodCertificate, *orDefault(mode))
	}
	return nil, time.Time{}, fmt.Errorf("projected source: %w", ErrUnsupported)
}
