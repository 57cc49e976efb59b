package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(cpu, memory string) v1.ResourceList {
	out := v1.ResourceList{}
	if cpu != "" {
		out[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

// asks is a pod of one container.
func asks(requests, limits v1.ResourceList) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{
		Name: "c", Resources: v1.ResourceRequirements{Requests: requests, Limits: limits},
	}}}}
}

func TestLimitsOfContainer(t *testing.T) {
	for name, test := range map[string]struct {
		in      v1.ResourceRequirements
		v1, uni map[string]string
	}{
		"nothing asked": {v1.ResourceRequirements{},
			map[string]string{"cpu/cpu.shares": "2"},
			map[string]string{"/cpu.weight": "1"}},
		"request and limits": {v1.ResourceRequirements{Requests: list("250m", "16Mi"), Limits: list("500m", "32Mi")},
			map[string]string{"cpu/cpu.shares": "256", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000", "memory/memory.limit_in_bytes": "33554432"},
			map[string]string{"/cpu.weight": "10", "/cpu.max": "50000 100000", "/memory.max": "33554432"}},
		"limit alone is the request": {v1.ResourceRequirements{Limits: list("2", "")},
			map[string]string{"cpu/cpu.shares": "2048", "cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
			map[string]string{"/cpu.weight": "79", "/cpu.max": "200000 100000"}},
		"a tiny limit is the least the kernel takes": {v1.ResourceRequirements{Limits: list("1m", "")},
			map[string]string{"cpu/cpu.shares": "2", "cpu/cpu.cfs_quota_us": "1000", "cpu/cpu.cfs_period_us": "100000"},
			map[string]string{"/cpu.weight": "1", "/cpu.max": "1000 100000"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := asks(test.in.Requests, test.in.Limits)
			l := ForContainer(pod, &pod.Spec.Containers[0])
			if got := l.V1(); !maps.Equal(got, test.v1) {
				t.Errorf("v1: %v, want %v", got, test.v1)
			}
			if got := l.Unified(); !maps.Equal(got, test.uni) {
				t.Errorf("v2: %v, want %v", got, test.uni)
			}
		})
	}
}

func TestLimitsOfPod(t *testing.T) {
	whole := asks(list("", ""), list("", ""))
	whole.Spec.Resources = &v1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("2", "2Gi")}
	half := asks(list("1", "1Gi"), list("", "2Gi"))
	half.Spec.Containers = append(half.Spec.Containers, v1.Container{Name: "free"})
	huge := asks(v1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi"), "memory": resource.MustParse("1Mi")}, v1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")})
	for name, test := range map[string]struct {
		pod  *v1.Pod
		want map[string]string
	}{
		"burstable": {asks(list("1", "1Gi"), list("", "2Gi")),
			map[string]string{"/cpu.weight": "39", "/memory.max": "2147483648", "/pids.max": "77"}},
		"guaranteed": {asks(list("1", "1Gi"), list("1", "1Gi")),
			map[string]string{"/cpu.weight": "39", "/cpu.max": "100000 100000", "/memory.max": "1073741824", "/pids.max": "77"}},
		"best effort": {asks(nil, nil), map[string]string{"/cpu.weight": "1", "/pids.max": "77"}},
		"a limit holds for the pod only when every container has it": {half,
			map[string]string{"/cpu.weight": "39", "/pids.max": "77"}},
		"the pod's own": {whole,
			map[string]string{"/cpu.weight": "39", "/cpu.max": "200000 100000", "/memory.max": "2147483648", "/pids.max": "77"}},
		"huge pages": {huge,
			map[string]string{"/cpu.weight": "1", "/hugetlb.2MB.max": "4194304", "/pids.max": "77"}},
	} {
		if got := ForPod(test.pod, 77).Unified(); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	if got := ForContainer(whole, &whole.Spec.Containers[0]); got.CPUQuota != 200000 || got.MemoryBytes != 2<<30 {
		t.Errorf("a container without limits in a pod with: %+v", got)
	}
}

// TestBurstableWeight: the class weighs what its pods ask for together.
func TestBurstableWeight(t *testing.T) {
	dir := t.TempDir()
	tree := &Tree{unified: dir, root: "/shoal", qosMade: map[v1.PodQOSClass]bool{}, burstable: map[string]uint64{}}
	weight := func(want string) {
		t.Helper()
		data, err := os.ReadFile(dir + "/shoal/burstable/cpu.weight")
		if err != nil || string(data) != want {
			t.Errorf("burstable weighs %q (%v), want %q", data, err, want)
		}
	}
	pod := func(uid, cpu string) {
		t.Helper()
		if err := tree.Create(v1.PodQOSBurstable, uid, ForPod(asks(list(cpu, ""), nil), 0)); err != nil {
			t.Fatal(err)
		}
	}
	pod("a", "1")
	weight("39")
	pod("b", "2")
	pod("b", "2") // again is no change
	weight("118")
	if err := tree.Update(v1.PodQOSBurstable, "b", ForPod(asks(list("1", ""), nil), 0)); err != nil {
		t.Fatal(err)
	}
	weight("79")
	for _, uid := range []string{"a", "b"} {
		// The files of a real group go with it; these do not.
		if err := os.RemoveAll(dir + "/shoal/burstable/pod" + uid); err != nil {
			t.Fatal(err)
		}
		if err := tree.Remove(v1.PodQOSBurstable, uid); err != nil {
			t.Fatal(err)
		}
	}
	weight("1")
}

func TestSetRoot(t *testing.T) {
	dir := t.TempDir()
	tree := &Tree{unified: dir, root: "/shoal", qosMade: map[v1.PodQOSClass]bool{}, burstable: map[string]uint64{}}
	if err := tree.SetRoot(Limits{CPUShares: 2048, MemoryBytes: 1 << 30, PIDs: 900}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpu.weight": "79", "memory.max": "1073741824", "pids.max": "900"} {
		if data, err := os.ReadFile(dir + "/shoal/" + file); err != nil || string(data) != want {
			t.Errorf("%s is %q (%v), want %q", file, data, err, want)
		}
	}
}

func TestHugeSizes(t *testing.T) {
	dir := t.TempDir()
	for name, n := range map[string]string{"hugepages-2048kB": "3\n", "hugepages-1048576kB": "1", "hugepages-xkB": "9", "other": "1"} {
		if err := os.MkdirAll(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/"+name+"/nr_hugepages", []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := hugeSizes(dir); !maps.Equal(got, map[int64]int64{2 << 20: 6 << 20, 1 << 30: 1 << 30}) {
		t.Errorf("sizes: %v", got)
	}
	for size, want := range map[int64]string{2 << 20: "2MB", 1 << 30: "1GB", 64 << 10: "64KB", 512 << 20: "512MB"} {
		if got := HugeName(size); got != want {
			t.Errorf("%d is called %s, want %s", size, got, want)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 30: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("weight of %d shares is %d, want %d", shares, got, want)
		}
	}
}

func TestPodPath(t *testing.T) {
	tree := &Tree{root: "/shoal"}
	for class, want := range map[v1.PodQOSClass]string{
		v1.PodQOSGuaranteed: "/shoal/podu", v1.PodQOSBurstable: "/shoal/burstable/podu", v1.PodQOSBestEffort: "/shoal/besteffort/podu",
	} {
		if got := tree.PodPath(class, "u"); got != want {
			t.Errorf("%s: %s, want %s", class, got, want)
		}
	}
}

// TestUnifiedFiles writes a cgroup v2 tree into a plain directory: what goes
// into which file does not depend on the kernel.
func TestUnifiedFiles(t *testing.T) {
	dir := t.TempDir()
	tree := &Tree{unified: dir, root: "/shoal", qosMade: map[v1.PodQOSClass]bool{}, burstable: map[string]uint64{}}
	if err := tree.Create(v1.PodQOSBurstable, "u", ForPod(asks(list("500m", ""), list("1", "64Mi")), 0)); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"shoal/burstable/podu/cpu.weight": "20", "shoal/burstable/podu/cpu.max": "100000 100000",
		"shoal/burstable/podu/memory.max": "67108864", "shoal/burstable/cgroup.subtree_control": "+hugetlb",
	} {
		data, err := os.ReadFile(dir + "/" + file)
		if err != nil || string(data) != want {
			t.Errorf("%s is %q (%v), want %q", file, data, err, want)
		}
	}
	if got := tree.Pods(); got["u"] != v1.PodQOSBurstable {
		t.Errorf("pods: %v", got)
	}
}

// openRoot opens a root of the test's own.
func openRoot(t *testing.T) *Tree {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make control groups")
	}
	tree, err := Open(fmt.Sprintf("/shoalcgrouptest%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.RemoveRoot(); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func TestCreateAndRemove(t *testing.T) {
	tree := openRoot(t)
	for range 2 { // again is no error
		if err := tree.Create(v1.PodQOSBestEffort, "u1", ForPod(asks(list("", ""), list("", "64Mi")), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if got := tree.Pods(); got["u1"] != v1.PodQOSBestEffort {
		t.Errorf("pods: %v", got)
	}
	for range 2 {
		if err := tree.Remove(v1.PodQOSBestEffort, "u1"); err != nil {
			t.Fatal(err)
		}
	}
	if got := tree.Pods(); len(got) != 0 {
		t.Errorf("pods after removal: %v", got)
	}
}

func TestOOMKills(t *testing.T) {
	for text, want := range map[string]int{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n": 3, // v1
		"low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n":     1, // v2
		"": 0, "oom_kill x": 0,
	} {
		if got := oomKills(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestAGivenRootStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make control groups")
	}
	tree, err := Open(fmt.Sprintf("/shoalgiven%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		tree.KeepRoot = false
		if err := tree.RemoveRoot(); err != nil {
			t.Error(err)
		}
		for _, dir := range tree.dirs(tree.root) {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("our own root %s: %v", dir, err)
			}
		}
	}()
	tree.KeepRoot = true
	for _, dir := range tree.dirs(tree.root) {
		if err := os.MkdirAll(dir, 0o755); err != nil { // as the one who gives it does
			t.Fatal(err)
		}
	}
	if err := tree.Create(v1.PodQOSBurstable, "u1", ForPod(asks(list("", ""), list("", "64Mi")), 0)); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove(v1.PodQOSBurstable, "u1"); err != nil {
		t.Fatal(err)
	}
	if err := tree.RemoveRoot(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range tree.dirs(tree.root) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Errorf("the given root is gone: %v", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("%s is left in %s", e.Name(), dir)
			}
		}
	}
}

// TestRemoveEndsWhatRuns: a process that a crash left in a pod's group does not
// keep the group.
func TestRemoveEndsWhatRuns(t *testing.T) {
	tree := openRoot(t)
	if err := tree.Create(v1.PodQOSBestEffort, "left", Limits{}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := tree.Enter(v1.PodQOSBestEffort, "left", "first", cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove(v1.PodQOSBestEffort, "left"); err != nil {
		t.Error(err)
	}
	<-ended //nolint:errcheck // it was killed
	if _, left := tree.Pods()["left"]; left {
		t.Error("the group is still there")
	}
}
