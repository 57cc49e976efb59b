package issuer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"shoal/store"
	"shoal/store/vector"
)

// errCorrupt is wrapped by every decoding failure.
var errCorrupt = errors.New("corrupt message")

// A version travels as 8 bytes, big-endian, in every message first.
const versionBytes = 8

func decodeVersion(b []byte) (store.Version, []byte, error) {
	if len(b) < versionBytes {
		return 0, nil, fmt.Errorf("decode version: %w: %d bytes", errCorrupt, len(b))
	}
	v := store.Version(binary.BigEndian.Uint64(b))
	if v == store.Latest {
		return 0, nil, fmt.Errorf("decode version: %w: zero", errCorrupt)
	}
	return v, b[versionBytes:], nil
}

func appendVersion(dst []byte, v store.Version) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(v))
}

// decodeVectorRequest reads a version alone.
func decodeVectorRequest(b []byte) (store.Version, error) {
	v, rest, err := decodeVersion(b)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("decode vector request: %w: %d bytes too many", errCorrupt, len(rest))
	}
	return v, err
}

// holding is what a peer had at its own version, or a little later.
type holding struct {
	version store.Version
	vector  vector.Vector
}

func appendHolding(dst []byte, h holding) []byte {
	return vector.AppendVector(appendVersion(dst, h.version), h.vector)
}

func decodeHolding(b []byte) (holding, error) {
	v, rest, err := decodeVersion(b)
	if err != nil {
		return holding{}, err
	}
	held, rest, err := vector.DecodeVector(rest)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("decode vector answer: %w: %d bytes too many", errCorrupt, len(rest))
	}
	if err != nil {
		return holding{}, err
	}
	return holding{version: v, vector: held}, nil
}

// A digest request is a version and the key, to the end.
func appendDigestRequest(dst []byte, v store.Version, key string) []byte {
	return append(appendVersion(dst, v), key...)
}

func decodeDigestRequest(b []byte) (store.Version, string, error) {
	v, rest, err := decodeVersion(b)
	if err != nil {
		return 0, "", err
	}
	if len(rest) == 0 || len(rest) > store.MaxKeyBytes || rest[0] != '/' {
		return 0, "", fmt.Errorf("decode digest request: %w: key of %d bytes", errCorrupt, len(rest))
	}
	return v, string(rest), nil
}

// A digest answer is the 8 bytes of the digest, or nothing: not known.
func appendDigest(dst []byte, d store.Digest) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(d))
}

func decodeDigest(b []byte) (d store.Digest, known bool, err error) {
	switch len(b) {
	case 0:
		return 0, false, nil
	case 8:
		return store.Digest(binary.BigEndian.Uint64(b)), true, nil
	}
	return 0, false, fmt.Errorf("decode digest: %w: %d bytes", errCorrupt, len(b))
}
