package localvolume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"shoal/api"
	"shoal/api/apitest"
	"shoal/api/storageclass"
	"shoal/sched/controllers"
	"shoal/test/eventually"
)

// The API server, the controllers and one host's provisioner all tests share.
var (
	peer *apitest.Peer
	host *Provisioner
	// inUse is what the agent says of every volume.
	inUse atomic.Bool
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "shoal-localvolume-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log := slog.New(slog.DiscardHandler)
	if peer, err = apitest.Start(context.Background(), dir, log); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, peer.Stop()) }()
	client, err := kubernetes.NewForConfig(peer.ProvisionerClientConfig())
	if err != nil {
		return 0, err
	}
	if host, err = New(Options{
		Client: client, Informers: peer.Informers(), NodeName: "here", DataDir: dir,
		InUse: func(string) (bool, error) { return inUse.Load(), nil }, Logger: log,
	}); err != nil {
		return 0, err
	}
	if err := addNodes("here", "there"); err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- host.Run(ctx) }()
	go func() {
		ended <- controllers.Run(ctx, controllers.Options{Config: peer.ClientConfig("controllers"), Informers: peer.Informers(), Logger: log})
	}()
	code = m.Run()
	stop()
	return code, errors.Join(<-ended, <-ended)
}

func addNodes(names ...string) error {
	for _, name := range names {
		node, err := peer.Client.CoreV1().Nodes().Create(context.Background(),
			&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
		if name != "here" { // so that this host is the one that speaks
			node.Status.Conditions[0].Status = v1.ConditionUnknown
		}
		if _, err := peer.Client.CoreV1().Nodes().UpdateStatus(context.Background(), node, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

const ns = "default"

// claim makes a claim that the scheduler has given to a node, "" for none.
func claim(t *testing.T, name, size, node string, change ...func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	t.Helper()
	c := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}},
		Spec: v1.PersistentVolumeClaimSpec{
			AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Resources:   v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)}},
		},
	}
	if node != "" {
		c.Annotations[storagehelpers.AnnSelectedNode] = node
	}
	for _, f := range change {
		f(c)
	}
	c, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func until(t *testing.T, what string, done func() error) {
	t.Helper()
	var err error
	defer func() {
		if t.Failed() {
			t.Logf("%s: %v", what, err)
		}
	}()
	eventually.True(t, what, func() bool { err = done(); return err == nil })
}

func hasEvent(t *testing.T, object, reason, message string) {
	t.Helper()
	until(t, "event "+reason+" of "+object, func() error {
		list, err := peer.Client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			return err
		}
		var said []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, message) {
				return nil
			}
			said = append(said, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("only %q", said)
	})
}

// TestAVolumeIsToldOfOnce: an informer that is behind has nothing said twice.
func TestAVolumeIsToldOfOnce(t *testing.T) {
	made := claim(t, "once", "1Mi", "here")
	pv := bound(t, "once")
	class, err := peer.Client.StorageV1().StorageClasses().Get(t.Context(), storageclass.Default, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	told := record.NewFakeRecorder(10)
	behind := &Provisioner{
		o: host.o, log: host.log, backend: host.backend, names: host.names, events: told, room: host.room, nodes: host.nodes,
		volumes: corelisters.NewPersistentVolumeLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})),
	}
	if err := behind.provision(t.Context(), made, class); err != nil {
		t.Error(err)
	}
	close(told.Events)
	for event := range told.Events {
		t.Errorf("told of what was there: %s", event)
	}
	drop(t, "once")
	gone(t, pv.Name)
}

func bound(t *testing.T, name string) *v1.PersistentVolume {
	t.Helper()
	var pv *v1.PersistentVolume
	until(t, "claim "+name+" bound", func() error {
		c, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c.Status.Phase != v1.ClaimBound {
			return fmt.Errorf("it is %s", c.Status.Phase)
		}
		pv, err = peer.Client.CoreV1().PersistentVolumes().Get(t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
		return err
	})
	return pv
}

func drop(t *testing.T, name string) {
	t.Helper()
	if err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, pv string) {
	t.Helper()
	until(t, "volume "+pv+" gone", func() error {
		_, err := peer.Client.CoreV1().PersistentVolumes().Get(t.Context(), pv, metav1.GetOptions{})
		if err == nil {
			return errors.New("it is there")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

func TestAVolumeIsMadeGrownAndDeleted(t *testing.T) {
	made := claim(t, "life", "1Mi", "here")
	pv := bound(t, "life")
	path := host.backend.Path(pv.Name)
	if pv.Name != "pvc-"+string(made.UID) || pv.Spec.Local.Path != path || pv.Spec.StorageClassName != storageclass.Default ||
		!slices.Equal(hostsOf(pv), []string{"here"}) || !slices.Contains(pv.Finalizers, storagehelpers.PVDeletionProtectionFinalizer) {
		t.Fatalf("volume %+v", pv)
	}
	put(t, filepath.Join(path, "file"))
	hasEvent(t, "life", "Provisioning", "default/life")
	hasEvent(t, "life", "ProvisioningSucceeded", pv.Name)

	grow := []byte(`{"spec":{"resources":{"requests":{"storage":"2Mi"}}}}`)
	if _, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Patch(t.Context(), "life", types.MergePatchType, grow, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "claim grown", func() error {
		c, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "life", metav1.GetOptions{})
		if size := c.Status.Capacity[v1.ResourceStorage]; err == nil && size.String() != "2Mi" {
			err = fmt.Errorf("it has %s", &size)
		}
		return err
	})

	// A pod that the API forgot still runs.
	inUse.Store(true)
	defer inUse.Store(false)
	drop(t, "life")
	hasEvent(t, pv.Name, "VolumeFailedDelete", "still used by a pod")
	if missing(filepath.Join(path, "file")) {
		t.Fatal("the data of a running pod is gone")
	}
	inUse.Store(false)
	gone(t, pv.Name)
	if !missing(path) {
		t.Error("the directory is there")
	}
}

func TestARetainedVolumeStays(t *testing.T) {
	claim(t, "kept", "1Mi", "here")
	pv := bound(t, "kept")
	path := host.backend.Path(pv.Name)
	put(t, filepath.Join(path, "file"))
	retain := []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}`)
	if _, err := peer.Client.CoreV1().PersistentVolumes().Patch(t.Context(), pv.Name, types.MergePatchType, retain, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	drop(t, "kept")
	if err := peer.Client.CoreV1().PersistentVolumes().Delete(t.Context(), pv.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone(t, pv.Name)
	if missing(filepath.Join(path, "file")) {
		t.Error("the data is gone")
	}
}

func TestAClaimThatDoesNotFitIsGivenBack(t *testing.T) {
	claim(t, "huge", "1Ei", "here")
	hasEvent(t, "huge", "ProvisioningFailed", "has room for")
	until(t, "the node is taken back", func() error {
		c, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "huge", metav1.GetOptions{})
		if err == nil && c.Annotations[storagehelpers.AnnSelectedNode] != "" {
			err = errors.New("it is for this host")
		}
		return err
	})
	room, err := peer.Client.StorageV1().CSIStorageCapacities(metav1.NamespaceSystem).Get(t.Context(), storageclass.Default+".here", metav1.GetOptions{})
	if err != nil || room.Capacity.Value() <= 0 {
		t.Errorf("the room is not published: %v, %v", room, err)
	}
	drop(t, "huge")
}

func TestWhatALocalVolumeCannotBeIsRefusedByName(t *testing.T) {
	block := v1.PersistentVolumeBlock
	claim(t, "block", "1Mi", "here", func(c *v1.PersistentVolumeClaim) { c.Spec.VolumeMode = &block })
	hasEvent(t, "block", "ProvisioningFailed", "volumeMode Block is not supported")
	claim(t, "selects", "1Mi", "here", func(c *v1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} })
	hasEvent(t, "selects", "ProvisioningFailed", "claim Selector is not supported")
	now := storagev1.VolumeBindingImmediate
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "at-once"}, Provisioner: storageclass.Provisioner, VolumeBindingMode: &now}
	if _, err := peer.Client.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim(t, "at-once", "1Mi", "", func(c *v1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class.Name })
	hasEvent(t, "at-once", "ProvisioningFailed", "volumeBindingMode: WaitForFirstConsumer")
	for _, name := range []string{"block", "selects", "at-once"} {
		drop(t, name)
	}
}

// volumeOn is an object as a provisioner on a node would write it.
func volumeOn(name, node, path string) *v1.PersistentVolume {
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{storagehelpers.AnnDynamicallyProvisioned: storageclass.Provisioner},
			Finalizers: []string{storagehelpers.PVDeletionProtectionFinalizer}},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}},
			Capacity:               v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")},
			AccessModes:            []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, StorageClassName: storageclass.Default,
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			ClaimRef:                      &v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: "no-such", UID: "gone"},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
}

func createVolume(t *testing.T, pv *v1.PersistentVolume) {
	t.Helper()
	volumes := peer.Client.CoreV1().PersistentVolumes()
	if _, err := volumes.Create(t.Context(), pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		_, err := volumes.Patch(ctx, pv.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err == nil {
			err = volumes.Delete(ctx, pv.Name, metav1.DeleteOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// TestWhatTwoHostsMade: two schedulers chose two hosts during a split, and the
// object that stayed names the other one.
func TestWhatTwoHostsMade(t *testing.T) {
	empty, full := provision(t, host.backend, "pvc-empty"), provision(t, host.backend, "pvc-full")
	put(t, filepath.Join(full, "file"))
	createVolume(t, volumeOn("pvc-empty", "there", empty))
	createVolume(t, volumeOn("pvc-full", "there", full))
	hasEvent(t, "pvc-full", "VolumeDataLeft", full)
	until(t, "empty directory gone", func() error {
		if !missing(empty) {
			return errors.New("it is there")
		}
		return nil
	})
	if missing(filepath.Join(full, "file")) {
		t.Error("data is gone")
	}
}

// TestAForeignPathIsNotTouched: whoever may write volumes must not have hosts
// delete what they like.
func TestAForeignPathIsNotTouched(t *testing.T) {
	outside := t.TempDir()
	put(t, filepath.Join(outside, "file"))
	createVolume(t, volumeOn("pvc-evil", "here", outside))
	createVolume(t, volumeOn("pvc-climbs", "here", host.backend.Path("pvc-climbs")))
	gone(t, "pvc-climbs") // an honest one without data goes
	until(t, "volume released", func() error {
		pv, err := peer.Client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-evil", metav1.GetOptions{})
		if err == nil && pv.Status.Phase != v1.VolumeReleased {
			err = fmt.Errorf("it is %s", pv.Status.Phase)
		}
		return err
	})
	if missing(filepath.Join(outside, "file")) {
		t.Error("a path outside was deleted")
	}
}

func TestAHostThatIsGoneHoldsNothing(t *testing.T) {
	createVolume(t, volumeOn("pvc-orphan", "was-here", "/var/lib/shoal/volumes/pvc-orphan"))
	if err := peer.Client.CoreV1().PersistentVolumes().Delete(t.Context(), "pvc-orphan", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone(t, "pvc-orphan")
	claim(t, "stuck", "1Mi", "was-here")
	hasEvent(t, "stuck", "ProvisioningFailed", `node "was-here"`)
	until(t, "the node is taken back", func() error {
		c, err := peer.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "stuck", metav1.GetOptions{})
		if err == nil && c.Annotations[storagehelpers.AnnSelectedNode] != "" {
			err = errors.New("it waits for a host that is gone")
		}
		return err
	})
	drop(t, "stuck")
}

// TestTheDefaultClassIsMadeOnce: who deletes it is not argued with.
func TestTheDefaultClassIsMadeOnce(t *testing.T) {
	classes := peer.Client.StorageV1().StorageClasses()
	class, err := classes.Get(t.Context(), storageclass.Default, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := classes.Delete(t.Context(), class.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := storageclass.Ensure(t.Context(), peer.Client, api.CellRecords(peer.DB)); err != nil {
		t.Fatal(err)
	}
	if _, err := classes.Get(t.Context(), class.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it is there again: %v", err)
	}
	class.ResourceVersion, class.UID = "", ""
	if _, err := classes.Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestTheProvisionersRightsAreNarrow: it writes volumes, and reads no secret.
func TestTheProvisionersRightsAreNarrow(t *testing.T) {
	if _, err := host.o.Client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets: %v", err)
	}
	if err := host.o.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), "any", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deletion of claims: %v", err)
	}
}
