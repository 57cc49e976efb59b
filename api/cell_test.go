package api_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"shoal/api"
	"shoal/api/issuer"
	apistorage "shoal/api/storage"
	"shoal/store"
)

// other is a second peer of the cell: its store, and what gossip would say.
var other = &otherPeer{alive: map[string]bool{"host1": true}, left: map[string]bool{}, changed: make(chan struct{}, 1), conflicts: api.NewNameConflicts()}

const otherTag = 9

type otherPeer struct {
	db        *store.DB
	conflicts *api.NameConflicts

	mu          sync.Mutex
	alive, left map[string]bool // guarded by mu
	told        map[string]bool // what Alive last answered, guarded by mu
	changed     chan struct{}
}

func (o *otherPeer) open(dir string) (err error) {
	o.db, err = store.Open(context.Background(), store.Options{Dir: filepath.Join(dir, "other"), Tag: otherTag})
	if err != nil {
		return err
	}
	// The pod range that the peer under test has, claimed before it did so.
	_, err = o.db.Update(context.Background(), store.Update{Key: "/shoal/claims/podcidrs/0", Expect: store.Absent, UID: "range", Value: []byte("host2")})
	return err
}

// store and join make the API server under test one of two peers.
func (o *otherPeer) store() store.Options {
	return store.Options{Tag: 1, Displaced: o.conflicts.Displaced}
}

func (o *otherPeer) join(a *api.Options) {
	a.Conflicts = o.conflicts
	a.Cell = apistorage.Cell{Tag: 1, Peers: issuer.NewAsker(o)}
	a.Members = o
	a.PodCIDR = netip.MustParsePrefix("10.64.0.0/24")
}

func (o *otherPeer) PeerOf(tag store.Tag) (string, bool) { return "host2", tag == otherTag }

func (o *otherPeer) Request(ctx context.Context, _, method string, payload []byte) ([]byte, error) {
	switch method {
	case issuer.VectorMethod:
		return issuer.Vector(o.db)(ctx, "host1", payload)
	case issuer.DigestMethod:
		return issuer.Digest(o.db)(ctx, "host1", payload)
	}
	return nil, errors.New("no such method")
}

func (o *otherPeer) Alive() map[string]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = maps.Clone(o.alive)
	return maps.Clone(o.alive)
}

func (o *otherPeer) Left(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.left[name]
}

func (o *otherPeer) Changed() <-chan struct{} { return o.changed }

func (o *otherPeer) say(change func()) {
	o.mu.Lock()
	change()
	o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// carry brings everything one store has and the other lacks.
func carry(t *testing.T, from, to *store.DB) {
	t.Helper()
	for {
		want := to.Vector().Missing(from.Vector())
		if len(want) == 0 {
			return
		}
		deltas, _, err := from.Deltas(want, 1<<20)
		if err == nil {
			err = to.Merge(t.Context(), deltas)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// versionThere is the other peer's version of what it has under a key.
func (o *otherPeer) versionThere(t *testing.T, key string) string {
	t.Helper()
	carry(t, peer.DB, o.db)
	entry, _, err := o.db.Get("/registry/"+key, store.Latest)
	if err != nil {
		t.Fatal(err)
	}
	if entry.Version.Tag() != otherTag {
		t.Fatalf("version %s has tag %d", entry.Version, entry.Version.Tag())
	}
	return entry.Version.String()
}

func TestVersionsOfAnotherPeerAsConditions(t *testing.T) {
	maps := peer.Client.CoreV1().ConfigMaps("default")
	const key = "configmaps/default/versions"
	made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "versions"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	edit := made.DeepCopy()
	edit.ResourceVersion, edit.Data = other.versionThere(t, key), map[string]string{"a": "1"}
	if _, err := maps.Update(t.Context(), edit, metav1.UpdateOptions{}); err != nil {
		t.Errorf("update by the other peer's version: %v", err)
	}
	edit.Data["a"] = "2"
	if _, err := maps.Update(t.Context(), edit, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update by an outdated version of the other peer's: %v, want 409", err)
	}
	patch := func(kind types.PatchType, body string) error {
		_, err := maps.Patch(t.Context(), "versions", kind, []byte(body), metav1.PatchOptions{FieldManager: "test"})
		return err
	}
	for kind, body := range map[types.PatchType]string{
		types.MergePatchType:          `{"metadata":{"resourceVersion":"VERSION"},"data":{"merge":"1"}}`,
		types.StrategicMergePatchType: `{"metadata":{"resourceVersion":"VERSION"},"data":{"strategic":"1"}}`,
		types.JSONPatchType:           `[{"op":"test","path":"/metadata/resourceVersion","value":"VERSION"},{"op":"add","path":"/data/json","value":"1"}]`,
		types.ApplyPatchType:          `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"versions","resourceVersion":"VERSION"},"data":{"apply":"1"}}`,
	} {
		body = strings.ReplaceAll(body, "VERSION", other.versionThere(t, key))
		if err := patch(kind, body); err != nil {
			t.Errorf("%s by the other peer's version: %v", kind, err)
		}
		if err := patch(kind, strings.ReplaceAll(body, `"1"`, `"2"`)); err == nil {
			t.Errorf("%s by an outdated version of the other peer's was done", kind)
		}
	}
	outdated := other.versionThere(t, key)
	if err := patch(types.MergePatchType, `{"data":{"last":"1"}}`); err != nil {
		t.Fatal(err)
	}
	remove := func(version string) error {
		return maps.Delete(t.Context(), "versions", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	}
	if err := remove(outdated); !apierrors.IsConflict(err) {
		t.Errorf("delete by an outdated version: %v, want 409", err)
	}
	if err := remove(other.versionThere(t, key)); err != nil {
		t.Errorf("delete by the other peer's version: %v", err)
	}
}

func TestEvictionByAnotherPeersVersion(t *testing.T) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := peer.Client.CoreV1().ServiceAccounts("kube-system").Create(t.Context(), account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	pods := peer.Client.CoreV1().Pods("kube-system")
	eventually(t, "a pod", func(ctx context.Context) bool {
		_, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "evicted"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i"}}, AutomountServiceAccountToken: new(bool),
		}}, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	version := other.versionThere(t, "pods/kube-system/evicted")
	err := pods.EvictV1(t.Context(), &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: "evicted", Namespace: "kube-system"},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}},
	})
	if err != nil {
		t.Errorf("evict by the other peer's version: %v", err)
	}
}

// TestTwoServicesWithOneNumber: both sides of a split gave out the same address
// and port. The service whose claim was born earlier keeps them.
func TestTwoServicesWithOneNumber(t *testing.T) {
	services := peer.Client.CoreV1().Services("default")
	dual, both := corev1.IPFamilyPolicyRequireDualStack, nodePortService("split-first", 0)
	both.Spec.IPFamilyPolicy = &dual
	first, err := services.Create(t.Context(), both, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := first.DeepCopy()
	second.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	second.Name, second.UID, second.ResourceVersion = "split-second", "split-uid", ""
	// Older by its own word: what counts is the claim.
	second.CreationTimestamp = metav1.Unix(first.CreationTimestamp.Unix()-100, 0)
	var stored strings.Builder
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(second, &stored); err != nil {
		t.Fatal(err)
	}
	write := func(key, uid, value string) {
		t.Helper()
		if _, err := other.db.Update(t.Context(), store.Update{Key: key, Expect: store.Any, UID: uid, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	claim := func(prefix string) string {
		t.Helper()
		var key string
		eventually(t, "a claim that names its service", func(context.Context) bool {
			entries, _, err := peer.DB.List(store.Range{Prefix: prefix}, store.Latest)
			if err != nil {
				return false
			}
			for e, err := range entries {
				if err == nil && strings.Contains(string(e.Value), "default/split-first") {
					key = e.Key
				}
			}
			return key != ""
		})
		return key
	}
	for _, key := range []string{claim("/shoal/claims/clusterips/"), claim("/shoal/claims/clusterips6/"), claim("/shoal/claims/nodeports/")} {
		if _, _, err := other.db.Get(key, store.Latest); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("the other side knows claim %s already: %v", key, err)
		}
		write(key, "claim"+key, "host2\ndefault/split-second split-uid")
	}
	write("/registry/services/specs/default/split-second", "split-uid", stored.String())
	carry(t, other.db, peer.DB)

	eventually(t, "another address and port for the second", func(ctx context.Context) bool {
		s, err := services.Get(ctx, "split-second", metav1.GetOptions{})
		return err == nil && s.Spec.ClusterIP != first.Spec.ClusterIP && s.Spec.ClusterIPs[0] == s.Spec.ClusterIP && s.Spec.ClusterIPs[1] != first.Spec.ClusterIPs[1] && s.Spec.Ports[0].NodePort != first.Spec.Ports[0].NodePort
	})
	kept, err := services.Get(t.Context(), "split-first", metav1.GetOptions{})
	if err != nil || !slices.Equal(kept.Spec.ClusterIPs, first.Spec.ClusterIPs) || kept.Spec.Ports[0].NodePort != first.Spec.Ports[0].NodePort {
		t.Errorf("the first has %+v (%v), want what it had", kept.Spec, err)
	}
	for _, reason := range []string{"ClusterIPReallocated", "NodePortReallocated"} {
		awaitEvent(t, "default", "split-second", reason, "split-first")
	}
	if err := services.Delete(t.Context(), "split-second", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func awaitEvent(t *testing.T, namespace, about, reason, says string) {
	t.Helper()
	eventually(t, "event "+reason, func(ctx context.Context) bool {
		events, err := peer.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Name == about && e.Reason == reason && strings.Contains(e.Message, says) {
				return true
			}
		}
		return false
	})
}

func TestANameMadeTwice(t *testing.T) {
	maps := peer.Client.CoreV1().ConfigMaps("default")
	made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "twice"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	twin := made.DeepCopy()
	twin.TypeMeta, twin.UID, twin.ResourceVersion = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, "the-other", ""
	stored, err := runtime.Encode(scheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion), twin)
	if err != nil {
		t.Fatal(err)
	}
	const key = "/registry/configmaps/default/twice"
	if _, _, err := other.db.Get(key, store.Latest); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("the other side has it already: %v", err)
	}
	if _, err := other.db.Update(t.Context(), store.Update{Key: key, Expect: store.Absent, UID: "the-other", Value: stored}); err != nil {
		t.Fatal(err)
	}
	carry(t, other.db, peer.DB)
	awaitEvent(t, "default", "twice", "NameConflict", "the-other")
	if kept, err := maps.Get(t.Context(), "twice", metav1.GetOptions{}); err != nil || kept.UID != made.UID {
		t.Errorf("kept %s (%v), want %s", kept.UID, err, made.UID)
	}
}

func TestAHostThatIsGone(t *testing.T) {
	nodes := peer.Client.CoreV1().Nodes()
	slices := peer.Client.DiscoveryV1().EndpointSlices("default")
	gone, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host9"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	gone.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}}
	if _, err := nodes.UpdateStatus(t.Context(), gone, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := slices.Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes-host9", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.9"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready := func(status corev1.ConditionStatus, reason string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			n, err := nodes.Get(ctx, "host9", metav1.GetOptions{})
			if err != nil {
				return false
			}
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == status && c.Reason == reason {
					return strings.Contains(c.Message, "host1")
				}
			}
			return false
		}
	}
	other.say(func() { other.alive["host9"] = true })
	// Only once it was met is it missed at once.
	eventually(t, "the watcher to look", func(context.Context) bool {
		other.mu.Lock()
		defer other.mu.Unlock()
		return other.told["host9"]
	})
	other.say(func() { delete(other.alive, "host9") })
	eventually(t, "the host to be unknown", ready(corev1.ConditionUnknown, "NodeStatusUnknown"))
	eventually(t, "its API endpoint to go", func(ctx context.Context) bool {
		_, err := slices.Get(ctx, "kubernetes-host9", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	other.say(func() { other.left["host9"] = true })
	eventually(t, "the host to have left", ready(corev1.ConditionFalse, "NodeLeft"))
}

// TestOwnEndpointComesBack: other peers delete it when they think this one failed.
func TestOwnEndpointComesBack(t *testing.T) {
	slices := peer.Client.DiscoveryV1().EndpointSlices("default")
	var uid types.UID
	eventually(t, "the endpoint", func(ctx context.Context) bool {
		s, err := slices.Get(ctx, "kubernetes-host1", metav1.GetOptions{})
		if err != nil {
			return false
		}
		uid = s.UID
		return true
	})
	if err := slices.Delete(t.Context(), "kubernetes-host1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the endpoint to come back", func(ctx context.Context) bool {
		s, err := slices.Get(ctx, "kubernetes-host1", metav1.GetOptions{})
		return err == nil && s.UID != uid && s.Endpoints[0].Hints.ForNodes[0].Name == "host1"
	})
}

func TestAPodRangeClaimedTwice(t *testing.T) {
	const key = "/shoal/claims/podcidrs/0"
	eventually(t, "the claim of this peer", func(context.Context) bool {
		entry, _, err := peer.DB.Get(key, store.Latest)
		return err == nil && len(entry.Value) > 0
	})
	carry(t, other.db, peer.DB)
	awaitEvent(t, "default", "host1", "PodCIDRConflict", "host2")
	entry, _, err := peer.DB.Get(key, store.Latest)
	if err != nil || string(entry.Value) != "host2" {
		t.Errorf("the claim is %q (%v), want host2's, which is older", entry.Value, err)
	}
}
