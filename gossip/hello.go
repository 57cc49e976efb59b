package gossip

import (
	"encoding/binary"
	"fmt"
	"time"

	"shoal/gossip/stream"
	"shoal/store/vector"
)

// The kinds of frames that are the Node's own, apart from the Core's.
const (
	kindHello = stream.FirstKind + 64 + iota
	kindBye
	kindRequest
	kindResponse
)

const (
	// maxFeatures and maxFeatureBytes of one hello.
	maxFeatures     = 64
	maxFeatureBytes = 64
	// maxReasonBytes of one goodbye.
	maxReasonBytes = 1024
)

// hello is what both ends of a link say first.
type hello struct {
	Actor vector.Actor
	Clock time.Time
	// Tree: the sender keeps this link for broadcasts.
	Tree     bool
	Features []string
}

func appendHello(dst []byte, h hello) []byte {
	dst = append(dst, flag(h.Tree, 1))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Actor))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Clock.UnixMicro()))
	dst = binary.AppendUvarint(dst, uint64(len(h.Features)))
	for _, f := range h.Features {
		dst = binary.AppendUvarint(dst, uint64(len(f)))
		dst = append(dst, f...)
	}
	return dst
}

func decodeHello(data []byte) (hello, error) {
	d := newDecoder(data)
	flags := d.Byte()
	h := hello{Tree: flags&1 != 0, Actor: vector.Actor(d.Uint64()), Clock: time.UnixMicro(int64(d.Uint64()))}
	if h.Actor == 0 {
		d.Fail("not a value of its field")
	}
	for range d.Count(maxFeatures) {
		h.Features = append(h.Features, string(d.Bytes(maxFeatureBytes)))
	}
	if d.Err() != nil {
		return hello{}, d.end("hello")
	}
	return h, nil // a later version may say more
}

// request is a call of a method on the other end. Timeout is how long its
// caller waits.
type request struct {
	ID      uint64
	Timeout time.Duration
	Method  string
	Payload []byte
}

const (
	maxMethodBytes  = 128
	maxTimeout      = 10 * time.Minute
	maxRequestBytes = stream.MaxFrameBytes - 1<<10
)

func appendRequest(dst []byte, r request) []byte {
	dst = binary.BigEndian.AppendUint64(dst, r.ID)
	dst = binary.AppendUvarint(dst, uint64(r.Timeout/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(len(r.Method)))
	dst = append(dst, r.Method...)
	return append(dst, r.Payload...)
}

func decodeRequest(data []byte) (request, error) {
	d := newDecoder(data)
	r := request{ID: d.Uint64(), Timeout: time.Duration(d.Count(uint64(maxTimeout/time.Millisecond))) * time.Millisecond}
	r.Method = string(d.Bytes(maxMethodBytes))
	if d.Err() != nil {
		return request{}, d.end("request")
	}
	r.Payload = d.Rest()
	return r, nil
}

// response ends a request; of a failure the payload is its text.
type response struct {
	ID      uint64
	Failed  bool
	Payload []byte
}

func appendResponse(dst []byte, r response) []byte {
	dst = append(dst, flag(r.Failed, 1))
	dst = binary.BigEndian.AppendUint64(dst, r.ID)
	return append(dst, r.Payload...)
}

func decodeResponse(data []byte) (response, error) {
	d := newDecoder(data)
	flags := d.Byte()
	r := response{ID: d.Uint64(), Failed: flags == 1}
	if d.Err() != nil || flags > 1 {
		return response{}, fmt.Errorf("decode response: %w", ErrCorrupt)
	}
	r.Payload = d.Rest()
	return r, nil
}
