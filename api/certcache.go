package api

import (
	"crypto/sha256"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

const (
	// certificateTrust is how long a client certificate that was verified is
	// known again without verifying its signature, which takes 0.15 ms and is
	// done for every request otherwise. A certificate authority that is taken
	// away, and one that expires, act that much later.
	certificateTrust = 10 * time.Second
	// maxCertificates known are those of all hosts of a large cell and of the
	// people and programs beside them.
	maxCertificates = 4096
)

// decisive are the headers by which a request may be somebody else's than its
// certificate's.
var decisive = []string{"Authorization", "X-Remote-User", "X-Remote-Uid", "Sec-Websocket-Protocol"}

// certificateCache remembers whose certificates the authenticator behind it
// found good. Requests that carry anything else that says who sent them go to
// that authenticator every time.
type certificateCache struct {
	authenticator.Request
	known *cache.LRUExpireCache
}

func newCertificateCache(behind authenticator.Request) *certificateCache {
	return &certificateCache{behind, cache.NewLRUExpireCache(maxCertificates)}
}

// AuthenticateRequest implements authenticator.Request.
func (c *certificateCache) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return c.Request.AuthenticateRequest(r)
	}
	for _, header := range decisive {
		if len(r.Header[header]) > 0 {
			return c.Request.AuthenticateRequest(r)
		}
	}
	leaf := r.TLS.PeerCertificates[0]
	key := sha256.Sum256(leaf.Raw)
	if found, ok := c.known.Get(key); ok {
		return found.(*authenticator.Response), true, nil
	}
	response, ok, err := c.Request.AuthenticateRequest(r)
	if ok && err == nil && response.User.GetName() == leaf.Subject.CommonName {
		c.known.Add(key, response, min(certificateTrust, time.Until(leaf.NotAfter)))
	}
	return response, ok, err
}
