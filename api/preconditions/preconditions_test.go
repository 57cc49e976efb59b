package preconditions

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// protobuf puts obj in the envelope clients send.
func protobuf(t *testing.T, kind string, obj message) string {
	t.Helper()
	raw, err := obj.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(protobufMagic) + string(envelope)
}

func options(version string) *metav1.DeleteOptions {
	return &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}}
}

func eviction(version string) *policyv1.Eviction {
	return &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a"}, DeleteOptions: options(version)}
}

func TestVersionsInRequests(t *testing.T) {
	pod := request.RequestInfo{IsResourceRequest: true, Verb: "delete", Resource: "pods", Namespace: "ns", Name: "a"}
	namespace := request.RequestInfo{IsResourceRequest: true, Verb: "delete", Resource: "namespaces", Namespace: "ns", Name: "ns"}
	evict := pod
	evict.Verb, evict.Subresource = "create", "eviction"
	patch := pod
	patch.Verb = "patch"
	create := pod
	create.Verb = "create"
	for name, tc := range map[string]struct {
		info              request.RequestInfo
		media, body, want string
		namespace         string
	}{
		"JSON delete":           {pod, "application/json", `{"gracePeriodSeconds":30,"preconditions":{"resourceVersion":"7","uid":"u"}}`, `{"gracePeriodSeconds":30,"preconditions":{"resourceVersion":"70","uid":"u"}}`, "ns"},
		"YAML delete":           {pod, "application/yaml", "preconditions:\n  resourceVersion: \"7\"\n", `{"preconditions":{"resourceVersion":"70"}}`, "ns"},
		"protobuf delete":       {pod, "application/vnd.kubernetes.protobuf", protobuf(t, "DeleteOptions", options("7")), protobuf(t, "DeleteOptions", options("70")), "ns"},
		"delete of a namespace": {namespace, "application/json", `{"preconditions":{"resourceVersion":"7"}}`, `{"preconditions":{"resourceVersion":"70"}}`, ""},
		"delete, no version":    {pod, "application/json", `{ "preconditions": {"uid":"u"}}`, `{ "preconditions": {"uid":"u"}}`, "ns"},
		"delete, other version": {pod, "application/json", `{ "preconditions":{"resourceVersion":"8"}}`, `{ "preconditions":{"resourceVersion":"8"}}`, "ns"},
		"delete, no body":       {pod, "", "", "", "ns"},
		"delete, no JSON":       {pod, "application/json", "{{{", "{{{", "ns"},
		"delete, a list":        {pod, "application/json", `["7"]`, `["7"]`, "ns"},
		"JSON eviction":         {evict, "application/json", `{"deleteOptions":{"preconditions":{"resourceVersion":"7"}}}`, `{"deleteOptions":{"preconditions":{"resourceVersion":"70"}}}`, "ns"},
		"protobuf eviction":     {evict, "application/vnd.kubernetes.protobuf", protobuf(t, "Eviction", eviction("7")), protobuf(t, "Eviction", eviction("70")), "ns"},
		"eviction, no options":  {evict, "application/vnd.kubernetes.protobuf", protobuf(t, "Eviction", &policyv1.Eviction{}), protobuf(t, "Eviction", &policyv1.Eviction{}), "ns"},
		"JSON patch":            {patch, "application/json-patch+json", `[{"op":"test","path":"/metadata/resourceVersion","value":"7"}]`, `[{"op":"test","path":"/metadata/resourceVersion","value":"70"}]`, "ns"},
		"merge patch":           {patch, "application/merge-patch+json", `{"metadata":{"resourceVersion":"7"}}`, `{"metadata":{"resourceVersion":"7"}}`, "ns"},
		"create":                {create, "application/json", `{"preconditions":{"resourceVersion":"7"}}`, `{"preconditions":{"resourceVersion":"7"}}`, "ns"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodDelete, "/x", bytes.NewReader([]byte(tc.body)))
			r.Header.Set("Content-Type", tc.media)
			r = r.WithContext(request.WithRequestInfo(r.Context(), &tc.info))
			var got []byte
			next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got, _ = io.ReadAll(r.Body)
				if r.ContentLength != int64(len(got)) {
					t.Errorf("content length %d of %d bytes", r.ContentLength, len(got))
				}
			})
			Handler(next, func(_ context.Context, _ schema.GroupResource, namespace, _, version string) string {
				if namespace != tc.namespace {
					t.Errorf("asked about namespace %q, want %q", namespace, tc.namespace)
				}
				if version == "7" {
					return "70"
				}
				return version
			}).ServeHTTP(httptest.NewRecorder(), r)
			if string(got) != tc.want {
				t.Errorf("passed on %q, want %q", got, tc.want)
			}
		})
	}
}

// TestLargeBodyPassesWhole: what is too large to look into is not cut.
func TestLargeBodyPassesWhole(t *testing.T) {
	body := bytes.Repeat([]byte("x"), maxBodyBytes+10)
	r := httptest.NewRequest(http.MethodDelete, "/x", bytes.NewReader(body))
	info := &request.RequestInfo{IsResourceRequest: true, Verb: "delete", Resource: "pods", Name: "a"}
	r = r.WithContext(request.WithRequestInfo(r.Context(), info))
	var got []byte
	Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got, _ = io.ReadAll(r.Body) }),
		func(context.Context, schema.GroupResource, string, string, string) string { return "" }).ServeHTTP(httptest.NewRecorder(), r)
	if !bytes.Equal(got, body) {
		t.Errorf("%d bytes were passed on, of %d", len(got), len(body))
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add([]byte(`{"preconditions":{"resourceVersion":"7"}}`))
	f.Add([]byte(`[{"op":"test","path":"/metadata/resourceVersion","value":"7"}]`))
	f.Add([]byte("k8s\x00\x0a\x00"))
	f.Fuzz(func(_ *testing.T, body []byte) {
		for _, rewrite := range []rewriter{rewriteDeleteOptions, rewriteEviction, rewriteJSONPatch} {
			rewrite(body, func(v string) string { return v + "0" })
		}
	})
}
