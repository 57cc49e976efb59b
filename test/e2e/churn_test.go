package e2e

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	containerdclient "github.com/containerd/containerd/v2/client"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"shoal/test/harness"
)

var (
	churnFor  = flag.Duration("churn.for", 3*time.Minute, "how long pods are churned; 0 is not at all")
	churnSeed = flag.Uint64("churn.seed", 0, "of the churn; 0 is one by the clock")
)

const (
	churnPods    = 200
	churnWorkers = 4
	// daemonKills and containerdRestarts happen at even distances; the last part
	// of the churn is without, so that one daemon lives through much of it.
	daemonKills        = 10
	containerdRestarts = 2
	// churnSettles bounds the way back to rest, with two hundred pods whose
	// deaths have queued up.
	churnSettles = 5 * time.Minute
	// slackGoroutines and slackFiles are what a daemon may have more of by chance:
	// requests in flight, idle connections. What leaks leaks once per pod.
	slackGoroutines, slackFiles = 60, 40
	// slackInformers: a daemon whose controllers began after its other parts has
	// informers of their own for them, which another shares (daemon/lead.go).
	slackInformers = 20
)

// churn is pods that come, change and go at random.
type churn struct {
	t      *testing.T
	ns     string
	client kubernetes.Interface
	shapes []shape

	mu   sync.Mutex
	did  map[string]int // guarded by mu
	free []string       // names of pods nobody works on now; guarded by mu
}

// TestChurn makes, changes and deletes pods of every shape at random while the
// daemon is killed and containerd restarted. Then every pod must come to where
// its shape goes, and after the last one is gone nothing may be left of any.
func TestChurn(t *testing.T) {
	if *churnFor == 0 {
		t.Skip("-churn.for 0")
	}
	seed := *churnSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: go test ./test/e2e -run TestChurn -churn.seed %d", seed, seed)
	t.Run("once", func(t *testing.T) {
		c := newChurn(t)
		for i, s := range c.shapes {
			c.create(t.Context(), fmt.Sprint("once-", i), s, rand.New(rand.NewPCG(seed, 0)))
		}
		c.settled()
		c.clear()
	})
	before := settledCounts(t)
	kinds, files, dirs, processes := goroutinesOf(t), runFiles(t), directories(t), commands(t)
	defer func() {
		if t.Failed() {
			describeContainers(t)
			logNew(t, "file", files, runFiles(t))
			logNew(t, "directory", dirs, directories(t))
			logNew(t, "process", processes, commands(t))
		}
		for kind, count := range goroutinesOf(t) {
			if t.Failed() && count > kinds[kind]+5 {
				t.Logf("goroutines of %s: %d before, %d after", kind, kinds[kind], count)
			}
		}
	}()
	t.Run("churn", func(t *testing.T) {
		c := newChurn(t)
		c.run(seed)
		t.Logf("did %v", c.did)
		c.settled()
		c.clear()
	})
	eventually(t, "nothing left of any pod", func() error { return noMore(t, before) })
}

func logNew(t *testing.T, what string, before, after []string) {
	for _, path := range after {
		if !slices.Contains(before, path) {
			t.Logf("a new %s: %s", what, path)
		}
	}
}

// describeContainers logs what is left in containerd.
func describeContainers(t *testing.T) {
	inContainerd(t, func(ctx context.Context, c *containerdclient.Client) {
		containers, err := c.Containers(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, container := range containers {
			info, _ := container.Info(ctx)
			state := "no task"
			if task, err := container.Task(ctx, nil); err == nil {
				status, err := task.Status(ctx)
				state = fmt.Sprintf("task %d %v (%v)", task.Pid(), status.Status, err)
			}
			t.Logf("container %s of %s made %s: %s; %v", container.ID(), info.Labels["io.kubernetes.pod.name"], info.CreatedAt, state, info.Labels)
		}
	})
}

// settledCounts is what the host and the daemon hold when no pod is left.
func settledCounts(t *testing.T) map[string]int {
	eventually(t, "no pods", func() error { return noPodsLeft(t) })
	counts := countHeld(t)
	for name, count := range countDaemon(t) {
		counts[name] = count
	}
	return counts
}

func noMore(t *testing.T, before map[string]int) error {
	now := countHeld(t)
	maps.Copy(now, countDaemon(t))
	slack := map[string]int{"goroutines": slackGoroutines, "open files": slackFiles, "informers": slackInformers, "watches": slackInformers}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if now[name] > before[name]+slack[name] {
			errs = append(errs, fmt.Errorf("%s: %d before, %d after", name, before[name], now[name]))
		}
	}
	return errors.Join(errs...)
}

// countDaemon counts what the daemon's process holds, and leases of it.
func countDaemon(t *testing.T) map[string]int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", daemon.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{"open files": len(files)}
	for kind, count := range goroutinesOf(t) {
		switch {
		case strings.Contains(kind, "tools/cache.(*Reflector).startResync"):
			counts["informers"] += count
		case strings.Contains(kind, "storage.(*watching).follow"):
			counts["watches"] += count
		case ofInformer(kind):
		default:
			counts["goroutines"] += count
		}
	}
	inContainerd(t, func(ctx context.Context, c *containerdclient.Client) {
		leases, err := c.LeasesService().List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		counts["leases"] = len(leases)
	})
	return counts
}

// ofInformer tells goroutines of which every informer and its watch have several.
func ofInformer(kind string) bool {
	for _, part := range []string{"client-go/tools/cache.", "handlers.(*WatchServer)", "api.(*inprocBody).Read"} {
		if strings.Contains(kind, part) {
			return true
		}
	}
	return false
}

// goroutinesOf counts the daemon's goroutines by what they run.
func goroutinesOf(t *testing.T) map[string]int {
	t.Helper()
	profile, err := client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/goroutine").Param("debug", "1").Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer profile.Close()
	counts := map[string]int{}
	count, scan := 0, bufio.NewScanner(profile)
	for scan.Scan() {
		line := scan.Text()
		if n, ok := strings.CutSuffix(strings.SplitN(line, "@", 2)[0], " "); ok && strings.Contains(line, " @ ") {
			count, _ = strconv.Atoi(n)
		}
		// The first line of a stack that is ours, or of a library, names it best.
		if fields := strings.Fields(line); count > 0 && len(fields) > 2 && fields[0] == "#" && strings.Contains(fields[2], "/") {
			counts[fields[2]+" "+fields[len(fields)-1]] += count
			count = 0
		}
	}
	if err := scan.Err(); err != nil || len(counts) == 0 {
		t.Fatalf("read the goroutines of %d kinds: %v", len(counts), err)
	}
	return counts
}

func newChurn(t *testing.T) *churn {
	c := &churn{t: t, ns: newNamespace(t), client: client, shapes: shapes(), did: map[string]int{}}
	word := map[string]string{"word": "first"}
	meta := metav1.ObjectMeta{Name: "churn"}
	_, err := client.CoreV1().ConfigMaps(c.ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: meta, Data: word}, metav1.CreateOptions{})
	if err == nil {
		_, err = client.CoreV1().Secrets(c.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: meta, StringData: word}, metav1.CreateOptions{})
	}
	if err == nil {
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: meta, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		}}
		_, err = client.CoreV1().PersistentVolumeClaims(c.ns).Create(t.Context(), claim, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range churnPods {
		c.free = append(c.free, fmt.Sprint("pod-", i))
	}
	return c
}

func (c *churn) note(deed string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.did[deed]++
}

// run churns for as long as the flag says.
func (c *churn) run(seed uint64) {
	ctx, cancel := context.WithTimeout(c.t.Context(), *churnFor)
	defer cancel()
	var wg sync.WaitGroup
	for i := range churnWorkers {
		chance := rand.New(rand.NewPCG(seed, uint64(i)+1))
		wg.Go(func() {
			for ctx.Err() == nil {
				c.step(ctx, chance)
			}
		})
	}
	c.disturb(ctx)
	wg.Wait()
}

// disturb kills the daemon and restarts containerd while pods are churned.
func (c *churn) disturb(ctx context.Context) {
	deeds := daemonKills + containerdRestarts
	every := *churnFor / time.Duration(deeds+4)
	for i := range deeds {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		if i%6 == 3 {
			if err := containerd.Restart(c.t.Context()); err != nil {
				c.t.Fatal(err)
			}
			c.note("containerd restarted")
			continue
		}
		restartDaemon(c.t, func() { daemon.Kill() })
		c.note("daemon killed")
	}
}

// step takes one pod's name and does something to it that is possible.
func (c *churn) step(ctx context.Context, chance *rand.Rand) {
	name := c.take(chance)
	defer c.give(name)
	pods := c.client.CoreV1().Pods(c.ns)
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		c.create(ctx, name, c.shapes[chance.IntN(len(c.shapes))], chance)
	case err != nil:
		// The daemon is down just now.
		time.Sleep(50 * time.Millisecond)
	case pod.DeletionTimestamp != nil:
	case chance.IntN(3) == 0:
		c.change(ctx, pod, chance)
	default:
		c.delete(ctx, name, chance)
	}
}

func (c *churn) take(chance *rand.Rand) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := chance.IntN(len(c.free))
	name := c.free[i]
	c.free[i] = c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	return name
}

func (c *churn) give(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, name)
}

func (c *churn) create(ctx context.Context, name string, s shape, chance *rand.Rand) {
	_, err := c.client.CoreV1().Pods(c.ns).Create(ctx, podOfShape(name, s, chance), metav1.CreateOptions{})
	c.report("created", err)
}

func (c *churn) delete(ctx context.Context, name string, chance *rand.Rand) {
	o := metav1.DeleteOptions{}
	if chance.IntN(4) == 0 {
		now := int64(0)
		o.GracePeriodSeconds = &now
	}
	c.report("deleted", c.client.CoreV1().Pods(c.ns).Delete(ctx, name, o))
}

// change does one of the things that may be changed of a pod, or of what it
// refers to.
func (c *churn) change(ctx context.Context, pod *corev1.Pod, chance *rand.Rand) {
	pods, number := c.client.CoreV1().Pods(c.ns), chance.IntN(1000)
	switch chance.IntN(4) {
	case 0:
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"churn":"%d"},"annotations":{"churn":"%d"}}}`, number, number)
		_, err := pods.Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		c.report("labelled", err)
	case 1:
		patch := fmt.Appendf(nil, `{"data":{"word":"%d"}}`, number)
		_, err := c.client.CoreV1().ConfigMaps(c.ns).Patch(ctx, "churn", types.MergePatchType, patch, metav1.PatchOptions{})
		c.report("reconfigured", err)
	case 2:
		next := pod.DeepCopy()
		next.Spec.EphemeralContainers = append(next.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: fmt.Sprint("debug-", number), Image: busyboxImage, Command: []string{"sleep", "5"}},
		})
		_, err := pods.UpdateEphemeralContainers(ctx, pod.Name, next, metav1.UpdateOptions{})
		c.report("debugged", err)
	case 3:
		if pod.Spec.ActiveDeadlineSeconds != nil {
			return // it may only be shortened
		}
		patch := []byte(`{"spec":{"activeDeadlineSeconds":20}}`)
		_, err := pods.Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		c.report("given a deadline", err)
	}
}

// report counts a deed. What fails does so because the daemon was down, or
// another deed came first.
func (c *churn) report(deed string, err error) {
	switch {
	case err == nil:
		c.note(deed)
	case apierrors.IsInvalid(err):
		c.t.Errorf("%s: %v", deed, err)
	default:
		c.note(deed + ": not")
		time.Sleep(20 * time.Millisecond)
	}
}

// settled waits until every pod is where its shape goes.
func (c *churn) settled() {
	c.t.Helper()
	byName := map[string]shape{}
	for _, s := range c.shapes {
		byName[s.name] = s
	}
	ctx, cancel := context.WithTimeoutCause(c.t.Context(), churnSettles, errors.New("it did not happen in time"))
	defer cancel()
	var errs []error
	err := harness.Until(ctx, 200*time.Millisecond, func() error {
		list, err := c.client.CoreV1().Pods(c.ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		errs = nil
		for i := range list.Items {
			pod := &list.Items[i]
			expired := pod.Spec.ActiveDeadlineSeconds != nil && ended(corev1.PodFailed)(pod)
			done := byName[pod.Labels["shape"]].settled
			if pod.DeletionTimestamp != nil || (!expired && !done(pod)) {
				errs = append(errs, fmt.Errorf("pod %s (%s, deleted %v) is %s: %s", pod.Name, pod.Labels["shape"], pod.DeletionTimestamp, pod.Status.Phase, describeStates(pod)))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		c.t.Fatal(err, errors.Join(errs...))
	}
}

func (c *churn) clear() {
	c.t.Helper()
	now := int64(1)
	err := c.client.CoreV1().Pods(c.ns).DeleteCollection(c.t.Context(), metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}
