package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// When tokens are renewed, as the kubelet's token manager does: after four
// fifths of their life, a day at the latest, and not all at one moment.
const (
	tokenAgeMax    = 24 * time.Hour
	tokenJitterMax = 10 * time.Second
	// tokenRetry is the wait before a token that could not be renewed and is
	// still good is asked for again.
	tokenRetry = 30 * time.Second
	// defaultTokenSeconds is the API's default for a projected token.
	defaultTokenSeconds = 3600
)

type tokenKey struct {
	uid          types.UID
	volume, path string
}

// tokenTimes is what is known of a token; the token itself is in its file.
type tokenTimes struct{ renew, expires time.Time }

// token gives the file of a token bound to the pod, a new one only if the one
// that is there is to be renewed.
func (c *configuration) token(ctx context.Context, r *Request, src *v1.ServiceAccountTokenProjection, mode int32) (files, time.Time, error) {
	key := tokenKey{r.Pod.UID, r.Volume.Name, src.Path}
	c.mu.Lock()
	times := c.tokens[key]
	c.mu.Unlock()
	text, err := os.ReadFile(filepath.Join(r.Dir, src.Path))
	have := err == nil && len(text) > 0 && time.Now().Before(times.expires)
	if !have || !time.Now().Before(times.renew) {
		got, fresh, err := c.newToken(ctx, r.Pod, src)
		switch {
		case err == nil:
			text, times = got, fresh
		case have:
			times.renew = time.Now().Add(tokenRetry)
		default:
			return nil, time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
		}
		c.mu.Lock()
		if c.tokens == nil {
			c.tokens = map[tokenKey]tokenTimes{}
		}
		c.tokens[key] = times
		c.mu.Unlock()
	}
	return files{src.Path: private(r.Pod, text, mode)}, times.renew, nil
}

// private is a file that only the pod's own user can read, where that is
// known; with a group, 0600 becomes 0640 when the volume is given to it.
func private(pod *v1.Pod, data []byte, mode int32) volumeutil.FileProjection {
	user := volumeutil.FsUserFrom(pod)
	if _, ok := fsGroup(pod); ok || user != nil {
		mode = 0o600
	}
	return volumeutil.FileProjection{Data: data, Mode: mode, FsUser: user}
}

func (c *configuration) newToken(ctx context.Context, pod *v1.Pod, src *v1.ServiceAccountTokenProjection) ([]byte, tokenTimes, error) {
	seconds := int64(defaultTokenSeconds)
	if src.ExpirationSeconds != nil {
		seconds = *src.ExpirationSeconds
	}
	req := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef: &authv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
		},
	}}
	if src.Audience != "" {
		req.Spec.Audiences = []string{src.Audience}
	}
	asked := time.Now()
	got, err := c.source.Token(ctx, pod.Namespace, pod.Spec.ServiceAccountName, req)
	if err != nil {
		return nil, tokenTimes{}, err
	}
	life := time.Duration(seconds) * time.Second
	if e := got.Spec.ExpirationSeconds; e != nil {
		life = time.Duration(*e) * time.Second
	}
	expires := got.Status.ExpirationTimestamp.Time
	if expires.IsZero() {
		expires = asked.Add(life)
	}
	return []byte(got.Status.Token), tokenTimes{renew: renewAt(expires, life), expires: expires}, nil
}

func renewAt(expires time.Time, life time.Duration) time.Time {
	at := expires.Add(-life / 5)
	if latest := expires.Add(-life).Add(tokenAgeMax); latest.Before(at) {
		at = latest
	}
	return at.Add(-rand.N(tokenJitterMax))
}

// forget drops what is remembered of a pod's tokens.
func (c *configuration) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.tokens {
		if key.uid == uid {
			delete(c.tokens, key)
		}
	}
}
