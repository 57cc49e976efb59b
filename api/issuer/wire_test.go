package issuer

import (
	"bytes"
	"testing"

	"shoal/store"
	"shoal/store/vector"
)

// FuzzDecode feeds every decoder: what one accepts, it encodes to the same
// bytes again.
func FuzzDecode(f *testing.F) {
	v := vector.Vector{7: {{First: 1, Last: 9}, {First: 12, Last: 12}}}
	f.Add(appendHolding(nil, holding{version: 1<<12 | 3, vector: v}))
	f.Add(appendDigestRequest(nil, 1<<12|3, "/registry/pods/ns/a"))
	f.Add(appendVersion(nil, 5))
	f.Add(appendDigest(nil, store.Digest(1<<63)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(what string, again []byte) {
			if !bytes.Equal(again, b) {
				t.Errorf("%s: %x became %x", what, b, again)
			}
		}
		if version, err := decodeVectorRequest(b); err == nil {
			same("vector request", appendVersion(nil, version))
		}
		if h, err := decodeHolding(b); err == nil {
			same("vector answer", appendHolding(nil, h))
		}
		if version, key, err := decodeDigestRequest(b); err == nil {
			same("digest request", appendDigestRequest(nil, version, key))
		}
		if digest, known, err := decodeDigest(b); err == nil && known {
			same("digest answer", appendDigest(nil, digest))
		}
	})
}
