package storage

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	apiserverstorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"shoal/store"
)

var (
	testScheme = runtime.NewScheme()
	testCodecs = serializer.NewCodecFactory(testScheme)
)

func init() {
	metav1.AddToGroupVersion(testScheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(testScheme))
	utilruntime.Must(examplev1.AddToScheme(testScheme))
}

const testPrefix = "test!"

// counting issues versions 1, 2, 3: the upstream suite reckons with the
// neighbours of versions, as etcd's are.
type counting struct{}

func (counting) Next(last store.Version) store.Version { return last + 1 }

func testCodec() runtime.Codec {
	return apitesting.TestCodec(testCodecs, examplev1.SchemeGroupVersion)
}

func testTransformer() *storagetesting.PrefixTransformer {
	return storagetesting.NewPrefixTransformer([]byte(testPrefix), false)
}

type setup struct {
	*Storage
	ctx context.Context
	db  *store.DB
}

type setupOption func(*storagebackend.ConfigForResource, *store.Options)

func withCodec(c runtime.Codec) setupOption {
	return func(config *storagebackend.ConfigForResource, _ *store.Options) { config.Codec = c }
}

func withTransformer(t value.Transformer) setupOption {
	return func(config *storagebackend.ConfigForResource, _ *store.Options) { config.Transformer = t }
}

// withClockVersions uses the versions a real peer issues.
func withClockVersions() setupOption {
	return func(_ *storagebackend.ConfigForResource, o *store.Options) { o.Versions = nil }
}

type setupFunc func(testing.TB, ...setupOption) *setup

func newSetup(t testing.TB, opts ...setupOption) *setup {
	t.Helper()
	config := &storagebackend.ConfigForResource{
		Config: storagebackend.Config{
			Codec:       testCodec(),
			Transformer: testTransformer(),
		},
		GroupResource: schema.GroupResource{Resource: "pods"},
	}
	dbOptions := store.Options{Dir: t.TempDir(), Versions: counting{}}
	for _, o := range opts {
		o(config, &dbOptions)
	}
	ctx := t.Context()
	db, err := store.Open(ctx, dbOptions)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(db, config, "/pods/", func() runtime.Object { return &example.Pod{} }, Cell{})
	if err != nil {
		t.Fatal(err)
	}
	// The suite swaps transformers and expects to find its own.
	s.transformer = config.Transformer
	t.Cleanup(func() {
		s.Destroy()
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &setup{Storage: s, ctx: ctx, db: db}
}

// checkStored is the suite's look at the bytes stored.
func (s *setup) checkStored(_ context.Context, t *testing.T, key string) {
	entry, _, err := s.db.Get(key, store.Latest)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	decoded, err := runtime.Decode(s.codec, entry.Value[len(testPrefix):])
	if err != nil {
		t.Fatalf("decode %q: %v", entry.Value, err)
	}
	if pod := decoded.(*example.Pod); pod.ResourceVersion != "" {
		t.Errorf("stored with resource version %q, want none", pod.ResourceVersion)
	}
}

// increaseVersion makes a write that is none of the resource's business.
func (s *setup) increaseVersion(ctx context.Context, t *testing.T) int64 {
	entry, err := s.db.Update(ctx, store.Update{Key: "/increase", Expect: store.Any, Value: []byte("ok")})
	if err != nil {
		t.Fatal(err)
	}
	return int64(entry.Version)
}

// compact forgets what is before a version and, as the suite knows it of etcd,
// takes up a version itself.
func (s *setup) compact(_ context.Context, t *testing.T, resourceVersion string) {
	v, err := apiserverstorage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Compact(store.Version(v)); err != nil {
		t.Fatal(err)
	}
}

// UpdatePrefixTransformer and UpdateTransformer let the suite swap the
// transformer under way.
func (s *setup) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	original := s.transformer
	changed := *original.(*storagetesting.PrefixTransformer)
	s.transformer = modify(&changed)
	return func() { s.transformer = original }
}

func (s *setup) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	original := s.transformer
	s.transformer = modify(original)
	return func() { s.transformer = original }
}

// countReads checks that a list transforms no more objects than it must look at.
func (s *setup) countReads() storagetesting.CallsValidation {
	transformer := s.transformer.(*storagetesting.PrefixTransformer)
	return func(t *testing.T, _, processed uint64) {
		t.Helper()
		if reads := transformer.GetReadsAndReset(); reads != processed {
			t.Errorf("read %d objects, want %d", reads, processed)
		}
	}
}

func allowUnsafeDeletion(t *testing.T, allow bool) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, allow)
}

var errBitsFlipped = &corruptError{what: "test", err: errors.New("bits flipped")}

var errSynthetic = errors.New("synthetic error")

type failingTransformer struct {
	value.Transformer
	fail atomic.Bool
}

func (f *failingTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if f.fail.Load() {
		return nil, false, errSynthetic
	}
	return f.Transformer.TransformFromStorage(ctx, data, dataCtx)
}

type failingCodec struct {
	runtime.Codec
	fail atomic.Bool
}

func (f *failingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if f.fail.Load() {
		return nil, nil, errSynthetic
	}
	return f.Codec.Decode(data, defaults, into)
}
