// Package preconditions makes resourceVersions that clients give as conditions
// comparable with this peer's, in the places where upstream's registry compares
// them before the storage is asked: the options of a delete or an eviction and
// the test operations of a JSON patch. Everywhere else the storage does it.
//
// What always holds: a version is replaced only by the one that the peer's own
// record has, and only if that is the record the version stands for with the
// peer that issued it. A request that carries none passes untouched.
//
// It is a handler inside the API's chain, after authentication and
// authorization; it decides nothing.
package preconditions

import (
	"bytes"
	"context"
	"io"
	"mime"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// maxBodyBytes of a request that is looked into. Options take a few hundred
// bytes; a larger patch passes as it came, and its test then fails like one of
// an outdated version.
const maxBodyBytes = 1 << 20

// Localize returns the version to compare with ours, in place of one that
// another peer may have issued for the object.
type Localize func(ctx context.Context, resource schema.GroupResource, namespace, name, version string) string

// Handler puts itself before next.
func Handler(next http.Handler, localize Localize) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rewrite := rewriterFor(r); rewrite != nil {
			if err := rewriteBody(r, rewrite, localize); err != nil {
				http.Error(w, "read request: "+err.Error(), http.StatusBadRequest)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// rewriter changes the versions in a body by way of local; ok is false where
// there was nothing to change.
type rewriter func(body []byte, local func(version string) string) (changed []byte, ok bool)

func rewriterFor(r *http.Request) rewriter {
	info, found := request.RequestInfoFrom(r.Context())
	if !found || !info.IsResourceRequest || info.Name == "" || r.Body == nil {
		return nil
	}
	switch {
	case info.Verb == "delete" && info.Subresource == "":
		return rewriteDeleteOptions
	case info.Verb == "create" && info.Resource == "pods" && info.Subresource == "eviction":
		return rewriteEviction
	case info.Verb == "patch" && mediaType(r) == string(types.JSONPatchType):
		return rewriteJSONPatch
	}
	return nil
}

func mediaType(r *http.Request) string {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return media
}

// rewriteBody replaces the request's body if rewrite changes it.
func rewriteBody(r *http.Request, rewrite rewriter, localize Localize) error {
	start, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes))
	if err != nil {
		return err
	}
	body := start
	if len(start) < maxBodyBytes {
		if changed, ok := rewrite(start, localizer(r, localize)); ok {
			body = changed
		}
	}
	if r.ContentLength >= 0 {
		r.ContentLength += int64(len(body) - len(start))
	}
	r.Body = &joined{Reader: io.MultiReader(bytes.NewReader(body), r.Body), Closer: r.Body}
	return nil
}

type joined struct {
	io.Reader
	io.Closer
}

func localizer(r *http.Request, localize Localize) func(string) string {
	info, _ := request.RequestInfoFrom(r.Context())
	namespace := info.Namespace
	if info.Resource == "namespaces" && info.APIGroup == "" {
		namespace = "" // a namespace is said to be in itself
	}
	resource := schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}
	return func(version string) string {
		return localize(r.Context(), resource, namespace, info.Name, version)
	}
}
