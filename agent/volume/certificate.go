package volume

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// certificateCheck is how often volumes with certificates are looked at, as
// often as the kubelet looks at every pod. What they are filled with is in
// memory.
const certificateCheck = time.Minute

func nextCheck() time.Time { return time.Now().Add(certificateCheck + rand.N(certificateCheck/2)) }

func (c *configuration) trustBundle(ctx context.Context, r *Request, src *v1.ClusterTrustBundleProjection, mode int32) (files, time.Time, error) {
	anchors, err := c.certificates().TrustAnchors(ctx, src)
	if err != nil {
		return nil, time.Time{}, err
	}
	return files{src.Path: private(r.Pod, anchors, mode)}, nextCheck(), nil
}

func (c *configuration) podCertificate(ctx context.Context, r *Request, i int, src *v1.PodCertificateProjection, mode int32) (files, time.Time, error) {
	key, chain, err := c.certificates().PodCertificate(ctx, r.Pod, r.Volume.Name, i)
	if err != nil {
		return nil, time.Time{}, err
	}
	out := files{}
	for path, data := range map[string][]byte{
		src.CredentialBundlePath: slices.Concat(key, chain), src.KeyPath: key, src.CertificateChainPath: chain,
	} {
		if path != "" {
			out[path] = private(r.Pod, data, mode)
		}
	}
	return out, nextCheck(), nil
}
