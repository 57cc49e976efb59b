package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func hostVolume(path string, kind v1.HostPathType) v1.Volume {
	return v1.Volume{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func configVolume(name string, change ...func(*v1.ConfigMapVolumeSource)) v1.Volume {
	src := &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}}
	for _, c := range change {
		c(src)
	}
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{ConfigMap: src}}
}

func TestHostPath(t *testing.T) {
	v, dir := open(t, &objects{})
	file, folder, gone := filepath.Join(dir, "file"), filepath.Join(dir, "folder"), filepath.Join(dir, "gone")
	write(t, file, "")
	write(t, filepath.Join(folder, "x"), "")
	socket := filepath.Join(dir, "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		kind v1.HostPathType
		want string
	}{
		{folder, v1.HostPathDirectory, ""},
		{file, v1.HostPathFile, ""},
		{socket, v1.HostPathSocket, ""},
		{"/dev/null", v1.HostPathCharDev, ""},
		{file, v1.HostPathUnset, ""},
		{file, v1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory, it's a File"},
		{folder, v1.HostPathFileOrCreate, "hostPath type check failed: " + folder + " is not a file, it's a Directory"},
		{folder, v1.HostPathSocket, "hostPath type check failed: " + folder + " is not a socket file, it's a Directory"},
		{"/dev/null", v1.HostPathBlockDev, "hostPath type check failed: /dev/null is not a block device, it's a CharDevice"},
		{gone, v1.HostPathFile, "hostPath type check failed, " + gone + " is not a file, unable to determine its type"},
		{gone, "Odd", "Odd is an invalid volume type"},
		{dir + "/../x", v1.HostPathUnset, "invalid HostPath `" + dir + "/../x`: must not contain '..'"},
		{gone + "1", v1.HostPathUnset, ""},
		{gone + "2", v1.HostPathDirectoryOrCreate, ""},
		{gone + "3", v1.HostPathFileOrCreate, ""},
	} {
		err := v.Setup(t.Context(), testPod("u1", hostVolume(test.path, test.kind)))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s as %q: %v", test.path, test.kind, err)
		case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), `MountVolume.SetUp failed for volume "host" : `+test.want)):
			t.Errorf("%s as %q: want %q, got %v", test.path, test.kind, test.want, err)
		}
	}
	teardown(t, v, testPod("u1"))
	if _, err := os.Stat(filepath.Join(folder, "x")); err != nil {
		t.Errorf("a host's file went with the pod: %v", err)
	}
}

func TestClaims(t *testing.T) {
	o := &objects{claims: map[string]*v1.PersistentVolumeClaim{}, pvs: map[string]*v1.PersistentVolume{}}
	v, dir := open(t, o)
	data := filepath.Join(dir, "data")
	claim := v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "mine", ReadOnly: true}}}
	pod := testPod("u1", claim)
	fails := func(want string) {
		t.Helper()
		var mount *MountError
		if err := v.Setup(t.Context(), pod); !errors.As(err, &mount) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	fails("unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: error processing PVC ns/mine: ")
	o.claims["mine"] = &v1.PersistentVolumeClaim{Spec: v1.PersistentVolumeClaimSpec{VolumeName: "pv1"}}
	pv := &v1.PersistentVolume{}
	pv.Name = "pv1"
	pv.Spec.NFS = &v1.NFSVolumeSource{}
	o.pvs["pv1"] = pv
	fails(`MountVolume.SetUp failed for volume "pv1" : persistent volume pv1: its source is not supported here`)
	pv.Spec.PersistentVolumeSource = v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: data}}
	fails("does not exist")
	if _, err := os.Stat(data); err == nil {
		t.Error("a persistent volume's vanished data was made again")
	}
	write(t, filepath.Join(data, "x"), "kept")
	setup(t, v, pod)
	if m := mounted(t, v, pod, "data"); m.Path != data || !m.ReadOnly {
		t.Errorf("mounted %+v", m)
	}
	pod.Spec.Containers[0].VolumeDevices = []v1.VolumeDevice{{Name: "data"}}
	fails("volume data has volumeMode Filesystem, but is specified in volumeDevices")
	teardown(t, v, pod)
	if read(t, filepath.Join(data, "x")) != "kept" {
		t.Error("data went with the pod")
	}
}

func TestFSGroup(t *testing.T) {
	o := &objects{}
	o.put("cfg", map[string]string{"key": "x"})
	v, dir := open(t, o)
	memory := v1.Volume{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}}
	pod := withGroup(testPod("u1", emptyVolume("data"), configVolume("cfg"), memory), 1234, nil)
	setup(t, v, pod)
	for name, want := range map[string]struct {
		gid  uint32
		mode os.FileMode
	}{
		"data": {1234, os.ModeDir | os.ModeSetgid | 0o777}, "mem": {1234, os.ModeDir | os.ModeSetgid | 0o777},
		"cfg": {1234, os.ModeDir | os.ModeSetgid | 0o777}, "cfg/..data/key": {1234, 0o644 | 0o440},
	} {
		first, rest, _ := strings.Cut(name, "/")
		checkOwner(t, filepath.Join(mounted(t, v, pod, first).Path, rest), want.gid, want.mode)
	}
	// A later daemon leaves what the pod did with its directory.
	path := mounted(t, v, pod, "data").Path
	if err := errors.Join(os.Chmod(path, 0o700), os.Chown(path, 0, 99)); err != nil {
		t.Fatal(err)
	}
	setup(t, v, pod)
	checkOwner(t, path, 99, os.ModeDir|0o700)

	tree := filepath.Join(dir, "tree")
	write(t, filepath.Join(tree, "deep/file"), "x")
	if err := os.Symlink("/etc/passwd", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	onMismatch, always := v1.FSGroupChangeOnRootMismatch, v1.FSGroupChangeAlways
	steps := []struct {
		gid      int64
		readOnly bool
		policy   *v1.PodFSGroupChangePolicy
		want     uint32
	}{{5, false, nil, 5}, {6, false, &onMismatch, 6}, {6, false, &onMismatch, 77}, {6, true, &always, 6}}
	for i, s := range steps {
		if i == 2 { // the root is right, a file is not
			if err := os.Chown(filepath.Join(tree, "deep/file"), 0, 77); err != nil {
				t.Fatal(err)
			}
		}
		if err := GiveToGroup(tree, withGroup(testPod("u2"), s.gid, s.policy), s.readOnly, s.policy); err != nil {
			t.Fatal(err)
		}
		checkOwner(t, filepath.Join(tree, "deep/file"), s.want, 0o664)
	}
	checkOwner(t, tree, 6, os.ModeDir|os.ModeSetgid|0o775)
	checkOwner(t, "/etc/passwd", 0, 0o644)
}

func checkOwner(t *testing.T, path string, gid uint32, mode os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Sys().(*syscall.Stat_t).Gid; got != gid || info.Mode() != mode {
		t.Errorf("%s: group %d and mode %v, want %d and %v", path, got, info.Mode(), gid, mode)
	}
}

func TestMemorySize(t *testing.T) {
	v, _ := open(t, &objects{})
	v.Allocatable = func() v1.ResourceList { return v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")} }
	memory := func(name, limit string) v1.Volume {
		src := &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}
		if limit != "" {
			q := resource.MustParse(limit)
			src.SizeLimit = &q
		}
		return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: src}}
	}
	pod := testPod("u1", memory("node", ""), memory("small", "1Mi"), memory("large", "1Gi"))
	setup(t, v, pod)
	limited := testPod("u2", memory("pod", "48Mi"))
	limited.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("32Mi")}
	setup(t, v, limited)
	for _, test := range []struct {
		pod  *v1.Pod
		name string
		mib  uint64
	}{{pod, "node", 64}, {pod, "small", 1}, {pod, "large", 64}, {limited, "pod", 32}} {
		var st unix.Statfs_t
		if err := unix.Statfs(mounted(t, v, test.pod, test.name).Path, &st); err != nil || st.Blocks*uint64(st.Bsize) != test.mib<<20 {
			t.Errorf("%s: %d bytes, want %d MiB; %v", test.name, st.Blocks*uint64(st.Bsize), test.mib, err)
		}
	}
}

func TestHugePages(t *testing.T) {
	pod := testPod("u1")
	requests := func(names ...v1.ResourceName) {
		pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{}
		for _, n := range names {
			pod.Spec.Containers[0].Resources.Requests[n] = resource.MustParse("2Mi")
		}
	}
	for _, test := range []struct {
		medium   v1.StorageMedium
		requests []v1.ResourceName
		want     string
	}{
		{"HugePages", nil, "there is no resource request for huge pages"},
		{"HugePages", []v1.ResourceName{"hugepages-2Mi"}, "2Mi"},
		{"HugePages", []v1.ResourceName{"hugepages-2Mi", "hugepages-1Gi"}, "multiple huge page sizes"},
		{"HugePages-1Gi", []v1.ResourceName{"hugepages-2Mi", "hugepages-1Gi"}, "1Gi"},
		{"HugePages-1Gi", []v1.ResourceName{"hugepages-2Mi"}, "there is no resource request for huge pages"},
	} {
		requests(test.requests...)
		size, err := pageSize(test.medium, pod)
		if err != nil && !strings.Contains(err.Error(), test.want) || err == nil && size.String() != test.want {
			t.Errorf("%s with %v: %s, %v", test.medium, test.requests, size.String(), err)
		}
	}
	v, _ := open(t, &objects{})
	requests("hugepages-2Mi")
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "huge", MountPath: "/huge"}}
	pod.Spec.Volumes = []v1.Volume{{Name: "huge", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}}}}
	if err := v.Setup(t.Context(), pod); err != nil {
		teardown(t, v, pod)
		t.Skipf("no huge pages here: %v", err)
	}
	setup(t, v, pod)
	var st unix.Statfs_t
	if err := unix.Statfs(mounted(t, v, pod, "huge").Path, &st); err != nil || st.Bsize != 2<<20 {
		t.Errorf("page size %d, %v", st.Bsize, err)
	}
}

// Whatever is mounted in a pod's volumes, and whoever did it, is detached and
// not removed, also by a daemon that knows nothing of the pod.
func TestTeardownSparesWhatIsMounted(t *testing.T) {
	v, dir := open(t, &objects{})
	pod := testPod("u1", emptyVolume("data"))
	setup(t, v, pod)
	precious := filepath.Join(dir, "precious")
	write(t, filepath.Join(precious, "x"), "kept")
	at := filepath.Join(mounted(t, v, pod, "data").Path, "a/b")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // one over the other
		if err := unix.Mount(precious, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	busy, err := os.Open(filepath.Join(at, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := os.Symlink(precious, filepath.Join(mounted(t, v, pod, "data").Path, "link")); err != nil {
		t.Fatal(err)
	}
	later, err := Open(dir, &objects{})
	if err != nil {
		t.Fatal(err)
	}
	teardown(t, later, pod)
	if read(t, filepath.Join(precious, "x")) != "kept" {
		t.Error("what was mounted in the volume is gone")
	}
	if _, err := os.Stat(filepath.Join(dir, "pods/u1/volumes")); err == nil {
		t.Error("the volumes are still there")
	}
}

func TestTokens(t *testing.T) {
	o := &objects{}
	o.put("root-ca", map[string]string{"ca.crt": "one"})
	v, _ := open(t, o)
	seconds := int64(1000)
	pod := testPod("u1", v1.Volume{Name: "api", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "root-ca"}}},
	}}}})
	setup(t, v, pod)
	path := mounted(t, v, pod, "api").Path
	if due := time.Until(v.RefreshAt(pod.UID)); due > 800*time.Second || due < 700*time.Second {
		t.Errorf("renewed in %s, want after 800 s of 1000, less some", due)
	}
	o.put("root-ca", map[string]string{"ca.crt": "two"})
	refresh := func() {
		t.Helper()
		if err := v.Refresh(t.Context(), pod); err != nil {
			t.Error(err)
		}
	}
	refresh()
	if read(t, filepath.Join(path, "ca.crt")) != "two" || o.tokens != 1 || read(t, filepath.Join(path, "token")) != "t of sa" {
		t.Errorf("a change of the other source asked for a token: %d asked", o.tokens)
	}
	age := func(renew, expires time.Duration) {
		for key := range v.config.tokens {
			v.config.tokens[key] = tokenTimes{renew: time.Now().Add(renew), expires: time.Now().Add(expires)}
		}
	}
	age(-time.Second, time.Minute)
	refresh()
	if read(t, filepath.Join(path, "token")) != "tt of sa" {
		t.Error("a token that was due is not renewed in place")
	}
	o.down = errors.New("nobody answers")
	age(-time.Second, time.Minute)
	refresh()
	if read(t, filepath.Join(path, "token")) != "tt of sa" || time.Until(v.RefreshAt(pod.UID)) > tokenRetry {
		t.Error("a good token is kept while no new one is to be had, and asked for again soon")
	}
	age(-time.Second, -time.Second)
	if err := v.Refresh(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "failed to fetch token: nobody answers") {
		t.Errorf("want an error about an expired token, got %v", err)
	}
	teardown(t, v, pod)
	if len(v.config.tokens) != 0 {
		t.Error("tokens of a pod that is gone are remembered")
	}
	uid := int64(1000)
	pod.Spec.Containers[0].SecurityContext = &v1.SecurityContext{RunAsUser: &uid}
	o.down = nil
	setup(t, v, pod)
	info, err := os.Stat(filepath.Join(path, "token"))
	if err != nil || info.Mode().Perm() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("token of a pod with one user: %v %v", info, err)
	}
}

func TestConfiguration(t *testing.T) {
	o := &objects{}
	o.put("cfg", map[string]string{"a": "1", "b": "2"})
	v, _ := open(t, o)
	yes, mode := true, int32(0o400)
	pod := testPod("u1", configVolume("cfg", func(c *v1.ConfigMapVolumeSource) {
		c.Items = []v1.KeyToPath{{Key: "a", Path: "sub/x", Mode: &mode}}
	}), configVolume("later", func(c *v1.ConfigMapVolumeSource) { c.Optional = &yes }),
		v1.Volume{Name: "down", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "memory", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
		}}}})
	v.Allocatable = func() v1.ResourceList { return v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")} }
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "cfg", MountPath: "/etc/x"}, {Name: "later", MountPath: "/etc/x/nested"}, {Name: "down", MountPath: "/down"}}
	setup(t, v, pod)
	at := func(name, path string) string { return filepath.Join(mounted(t, v, pod, name).Path, path) }
	checkOwner(t, at("cfg", "sub/x"), 0, 0o400)
	checkOwner(t, at("cfg", "nested"), 0, os.ModeDir|0o755)
	if got := read(t, at("down", "memory")); got != "64" {
		t.Errorf("limit of a container without one is the node's: %q", got)
	}
	o.put("later", map[string]string{"k": "here"})
	pod = pod.DeepCopy()
	pod.Labels = map[string]string{"a": "b"}
	if err := v.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if read(t, at("later", "k")) != "here" || read(t, at("down", "labels")) != `a="b"` {
		t.Error("what came later is not there")
	}
	bad := testPod("u2", configVolume("none"), configVolume("cfg", func(c *v1.ConfigMapVolumeSource) { c.Items = []v1.KeyToPath{{Key: "z", Path: "z"}} }))
	err := v.Setup(t.Context(), bad)
	want := `MountVolume.SetUp failed for volume "none" : configmap "none" not found` + "\n" +
		`MountVolume.SetUp failed for volume "cfg" : configmap references non-existent config key: z`
	if err == nil || err.Error() != want {
		t.Errorf("want %s\ngot  %v", want, err)
	}
	teardown(t, v, bad)
}

// A disk that is full in the middle of a write: what was there stays, it is
// said, and nothing of the attempt is left; and so after a daemon that died.
func TestFullDisk(t *testing.T) {
	o := &objects{}
	o.put("cfg", map[string]string{"key": "old"})
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs root: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	v, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	pod := testPod("u1", configVolume("cfg"))
	setup(t, v, pod)
	path := mounted(t, v, pod, "cfg").Path
	big := strings.Repeat("x", 2<<20)
	for range 3 {
		o.put("cfg", map[string]string{"key": big})
		if err := v.Refresh(t.Context(), pod); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("want no space, got %v", err)
		}
		if read(t, filepath.Join(path, "key")) != "old" {
			t.Error("the old content is gone")
		}
	}
	entries, _ := os.ReadDir(path)
	if len(entries) != 3 { // ..data, what it leads to, key
		t.Errorf("left by failed writes: %v", entries)
	}
	for _, left := range []string{"..data_tmp", "..2020_01_01_00_00_00.1"} {
		if err := os.Symlink("nowhere", filepath.Join(path, left)); err != nil {
			t.Fatal(err)
		}
	}
	o.put("cfg", map[string]string{"key": "new"})
	setup(t, v, pod)
	if entries, _ = os.ReadDir(path); read(t, filepath.Join(path, "key")) != "new" || len(entries) != 3 {
		t.Errorf("after a daemon died in a write: %v", entries)
	}
}

// A renewal that comes while the pod is taken down makes nothing again.
func TestRefreshAfterTeardown(t *testing.T) {
	o := &objects{secrets: map[string]*v1.Secret{"s": {Data: map[string][]byte{"k": []byte("hush")}}}}
	v, dir := open(t, o)
	pod := testPod("u1", v1.Volume{Name: "sec", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s"}}})
	setup(t, v, pod)
	done := make(chan error)
	o.mu.Lock() // the renewal waits for the API
	go func() { done <- v.Refresh(t.Context(), pod) }()
	time.Sleep(10 * time.Millisecond)
	teardown(t, v, pod)
	o.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "secrets")); len(entries) > 0 {
		t.Errorf("secrets left: %v", entries)
	}
}

// BenchmarkDefaultVolume is what every pod has: a token and the API's CA.
func BenchmarkDefaultVolume(b *testing.B) {
	o := &objects{}
	o.put("root-ca", map[string]string{"ca.crt": "x"})
	v, err := Open(b.TempDir(), o)
	if err != nil {
		b.Skip(err)
	}
	defer func() { _ = v.Close() }()
	pod := testPod("u1", v1.Volume{Name: "api", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
		{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "root-ca"}}},
		{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}})
	for b.Loop() {
		if err := errors.Join(v.Setup(b.Context(), pod), v.Teardown(b.Context(), "u1")); err != nil {
			b.Fatal(err)
		}
	}
}
