package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

// The kubelet's own times for what the API said of a caller.
const (
	tokenFresh = 2 * time.Minute
	allowFresh = 5 * time.Minute
	denyFresh  = 30 * time.Second
)

const (
	// callersKnown bounds what is remembered: scrapers are few, and a flood of
	// made-up tokens pushes out no more than this.
	callersKnown = 1024
	// reviewsAtOnce bounds questions to the API for callers that may be
	// nobody; beyond it they are told to come again.
	reviewsAtOnce = 8
	reviewTimeout = 10 * time.Second
)

// masters is the group of those who may do everything; the API servers'
// certificates for agents carry it.
const masters = "system:masters"

// callers decides who may use the agent's API, as the kubelet does: whoever
// has a certificate of the cell or a bearer token good in it, and the right to
// that part of the node (nodes/proxy, nodes/metrics, nodes/stats, …).
type callers struct {
	kube    kubernetes.Interface
	node    string
	tokens  *utilcache.LRUExpireCache // authnv1.UserInfo by hash; no name: not known
	rights  *utilcache.LRUExpireCache // bool by question
	reviews chan struct{}
}

func newCallers(kube kubernetes.Interface, node string) *callers {
	return &callers{
		kube: kube, node: node, reviews: make(chan struct{}, reviewsAtOnce),
		tokens: utilcache.NewLRUExpireCache(callersKnown), rights: utilcache.NewLRUExpireCache(callersKnown),
	}
}

// guard lets through what may come through.
func (c *callers) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil { // only tests serve without
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
		defer cancel()
		user, code, err := c.who(ctx, r)
		if err != nil {
			http.Error(w, err.Error(), code)
			return
		}
		if code, err := c.may(ctx, user, r); err != nil {
			http.Error(w, err.Error(), code)
			return
		}
		cancel()
		next.ServeHTTP(w, r)
	})
}

// who is the caller, by certificate or else by token. The certificate was
// verified when the connection was made.
func (c *callers) who(ctx context.Context, r *http.Request) (authnv1.UserInfo, int, error) {
	for _, chain := range r.TLS.VerifiedChains {
		if len(chain) > 0 && slices.Contains(chain[0].ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
			return authnv1.UserInfo{Username: chain[0].Subject.CommonName, Groups: append([]string{"system:authenticated"}, chain[0].Subject.Organization...)}, 0, nil
		}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token = strings.TrimSpace(token); !ok || token == "" {
		return authnv1.UserInfo{}, http.StatusUnauthorized, errUnauthorized
	}
	key := sha256.Sum256([]byte(token))
	user, ok := c.tokens.Get(key)
	if !ok {
		release, err := c.ask(ctx)
		if err != nil {
			return authnv1.UserInfo{}, http.StatusTooManyRequests, err
		}
		defer release()
		review, err := c.kube.AuthenticationV1().TokenReviews().Create(ctx, &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			return authnv1.UserInfo{}, http.StatusServiceUnavailable, fmt.Errorf("the token cannot be checked now: %w", err)
		}
		known := authnv1.UserInfo{}
		if review.Status.Authenticated {
			known = review.Status.User
		}
		c.tokens.Add(key, known, tokenFresh)
		user = known
	}
	if u := user.(authnv1.UserInfo); u.Username != "" {
		return u, 0, nil
	}
	return authnv1.UserInfo{}, http.StatusUnauthorized, errUnauthorized
}

var errUnauthorized = fmt.Errorf("Unauthorized: a client certificate of this cell or a bearer token is needed") //nolint:staticcheck // the kubelet's word

// ask takes a place among those who ask the API.
func (c *callers) ask(ctx context.Context) (release func(), err error) {
	select {
	case c.reviews <- struct{}{}:
		return func() { <-c.reviews }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("too many callers are being checked; try again")
	}
}

// may asks whether the caller has one of the rights that are enough.
func (c *callers) may(ctx context.Context, user authnv1.UserInfo, r *http.Request) (int, error) {
	if slices.Contains(user.Groups, masters) {
		return 0, nil
	}
	verb, parts := verbOf(r.Method), partsOf(r.URL.Path)
	for _, part := range parts {
		ok, err := c.has(ctx, user, verb, part)
		if err != nil {
			return http.StatusServiceUnavailable, err
		}
		if ok {
			return 0, nil
		}
	}
	return http.StatusForbidden, fmt.Errorf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verb, parts) //nolint:staticcheck // the kubelet's words
}

// right is a question the API answers.
type right struct{ user, uid, groups, extra, verb, part string }

func (c *callers) has(ctx context.Context, user authnv1.UserInfo, verb, part string) (bool, error) {
	key := right{user.Username, user.UID, strings.Join(user.Groups, "\n"), fmt.Sprint(user.Extra), verb, part}
	if known, ok := c.rights.Get(key); ok {
		return known.(bool), nil
	}
	release, err := c.ask(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	extra := map[string]authzv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authzv1.ExtraValue(v)
	}
	review, err := c.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		ResourceAttributes: &authzv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: part, Name: c.node},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("rights cannot be checked now: %w", err)
	}
	fresh := denyFresh
	if review.Status.Allowed {
		fresh = allowFresh
	}
	c.rights.Add(key, review.Status.Allowed, fresh)
	return review.Status.Allowed, nil
}

func verbOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet, http.MethodHead:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return ""
}

// partsOf are the subresources of nodes of which one is enough for a path, the
// finer first: the kubelet's table (pkg/kubelet/server/auth.go of 1.37).
func partsOf(path string) []string {
	below := func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
	switch {
	case below("/pods"), below("/runningpods"):
		return []string{"pods", "proxy"}
	case below("/healthz"):
		return []string{"healthz", "proxy"}
	case below("/configz"):
		return []string{"configz", "proxy"}
	case below("/stats"):
		return []string{"stats"}
	case below("/metrics"):
		return []string{"metrics"}
	case below("/logs"):
		return []string{"log"}
	}
	return []string{"proxy"}
}
