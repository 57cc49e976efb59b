package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// objects is a Source from memory.
type objects struct {
	mu         sync.Mutex
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	claims     map[string]*v1.PersistentVolumeClaim
	pvs        map[string]*v1.PersistentVolume
	tokens     int           // handed out
	life       time.Duration // of tokens; an hour if 0
	down       error         // what Token says instead
}

func notFound(resource, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name)
}

func (o *objects) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.configMaps[name]; c != nil {
		return c, nil
	}
	return nil, notFound("configmap", name)
}

func (o *objects) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.secrets[name]; s != nil {
		return s, nil
	}
	return nil, notFound("secret", name)
}

func (o *objects) Token(_ context.Context, _, account string, req *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down != nil {
		return nil, o.down
	}
	o.tokens++
	life := o.life
	if life == 0 {
		life = time.Duration(*req.Spec.ExpirationSeconds) * time.Second
	}
	req.Status.Token = strings.Repeat("t", o.tokens) + " of " + account
	req.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(life))
	return req, nil
}

func (o *objects) Claim(_ context.Context, _, name string) (*v1.PersistentVolumeClaim, *v1.PersistentVolume, error) {
	c := o.claims[name]
	if c == nil {
		return nil, nil, notFound("persistentvolumeclaims", name)
	}
	return c, o.pvs[c.Spec.VolumeName], nil
}

func (o *objects) put(name string, data map[string]string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.configMaps == nil {
		o.configMaps = map[string]*v1.ConfigMap{}
	}
	o.configMaps[name] = &v1.ConfigMap{Data: data}
}

// open gives volumes below a directory of the test. At the end nothing may be
// mounted there.
func open(t *testing.T, source Source) (*Volumes, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	v, err := Open(dir, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if left := mountsBelow(t, dir); len(left) > 0 {
			t.Errorf("mounts left: %q", left)
		}
	})
	return v, dir
}

func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range mounts {
		out = append(out, m.Mountpoint)
	}
	return out
}

// testPod is a pod whose one container mounts all of the volumes.
func testPod(uid string, volumes ...v1.Volume) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: types.UID(uid)}}
	p.Spec.ServiceAccountName = "sa"
	p.Spec.Volumes = volumes
	p.Spec.Containers = []v1.Container{{Name: "c"}}
	for _, vol := range volumes {
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, v1.VolumeMount{Name: vol.Name, MountPath: "/" + vol.Name})
	}
	return p
}

func withGroup(p *v1.Pod, gid int64, policy *v1.PodFSGroupChangePolicy) *v1.Pod {
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &gid, FSGroupChangePolicy: policy}
	return p
}

func setup(t *testing.T, v *Volumes, pod *v1.Pod) {
	t.Helper()
	if err := v.Setup(context.Background(), pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { teardown(t, v, pod) })
}

func teardown(t *testing.T, v *Volumes, pod *v1.Pod) {
	t.Helper()
	if err := v.Teardown(context.Background(), string(pod.UID)); err != nil {
		t.Error(err)
	}
}

func mounted(t *testing.T, v *Volumes, pod *v1.Pod, name string) Mounted {
	t.Helper()
	m, ok := v.Mounted(pod.UID, name)
	if !ok {
		t.Fatalf("volume %s is not mounted", name)
	}
	return m
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
