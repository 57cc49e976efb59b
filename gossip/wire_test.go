package gossip

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"shoal/gossip/reconcile"
	"shoal/store"
	"shoal/store/vector"
)

// decoders are all that take bytes of a peer, each with its encoder.
var decoders = map[byte]func([]byte) ([]byte, error){
	kindCompare:     again(decodeSummary, appendSummary),
	kindVector:      again(decodeHolding, appendHolding),
	kindWant:        again(decodeWant, vector.AppendVector),
	kindDeltas:      again(decodeAnswer, appendAnswer),
	kindSetStep:     again(decodeSetStep, appendSetStep),
	kindSetEnd:      again(decodeSetEnd, appendSetEnd),
	kindStatesAsk:   again(decodeStatesAsk, appendStatesAsk),
	kindStates:      again(decodeStates, appendStates),
	kindSnapshotEnd: again(decodeSnapshotEnd, appendSnapshotEnd),
	kindHello:       again(decodeHello, appendHello),
	kindRequest:     again(decodeRequest, appendRequest),
	kindResponse:    again(decodeResponse, appendResponse),
}

func again[T any](decode func([]byte) (T, error), encode func([]byte, T) []byte) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		v, err := decode(data)
		if err != nil {
			return nil, err
		}
		return encode(nil, v), nil
	}
}

func samples() map[byte][]byte {
	v := vector.Vector{3: {{First: 1, Last: 9}, {First: 12, Last: 12}}, 8: {{First: 2, Last: 2}}}
	d := stamped(3, 4)
	d.Also = []store.Dot{{Actor: 3, Sequence: 5}}
	deltas := []store.Delta{d, {Dot: store.Dot{Actor: 8, Sequence: 1}}}
	set := reconcile.NewSet([]reconcile.Entry{{Key: "/a", Version: 1}})
	return map[byte][]byte{
		kindCompare:     appendSummary(nil, summary{Actor: 1, Digest: 2, Fingerprint: 3, Floor: 4, Urgent: true}),
		kindVector:      appendHolding(nil, holding{Actor: 1, Floor: 2, Vector: v, Answer: true}),
		kindWant:        vector.AppendVector(nil, v),
		kindDeltas:      appendAnswer(nil, answer{Covered: v, Deltas: deltas, Gone: true}),
		kindSetStep:     appendSetStep(nil, setStep{ID: 1, Number: 2, Replica: true, Vector: v, Floor: 3, Last: true, Cut: true, Message: reconcile.NewSession(set).Start()}),
		kindSetEnd:      appendSetEnd(nil, setEnd{ID: 1, Failed: true}),
		kindStatesAsk:   appendStatesAsk(nil, statesAsk{ID: 1, Round: 2, Keys: []string{"/a", "/b"}}),
		kindStates:      appendStates(nil, states{ID: 1, Round: 2, Answered: 2, Deltas: deltas}),
		kindSnapshotEnd: appendSnapshotEnd(nil, snapshotEnd{ID: 1, Parts: 2, Floor: 3, Vector: v}),
		kindHello:       appendHello(nil, hello{Actor: 1, Clock: time.UnixMicro(1_700_000_000_000_000), Tree: true, Features: []string{"x", "yy"}}),
		kindRequest:     appendRequest(nil, request{ID: 1, Timeout: time.Second, Method: "m", Payload: []byte("p")}),
		kindResponse:    appendResponse(nil, response{ID: 1, Failed: true, Payload: []byte("p")}),
	}
}

func TestWireForms(t *testing.T) {
	for kind, data := range samples() {
		got, err := decoders[kind](data)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("kind %d: %x came back as %x, %v", kind, data, got, err)
		}
		if kind == kindRequest || kind == kindResponse {
			continue // these end with a payload of any length
		}
		for i := range data {
			if out, err := decoders[kind](data[:i]); err == nil && bytes.Equal(out, data) {
				t.Errorf("kind %d cut to %d bytes was read as the whole", kind, i)
			}
		}
	}
}

// FuzzFrames: no frame of a peer stops a core or makes it ask for more than its
// limits, and what a decoder accepts is read the same again.
func FuzzFrames(f *testing.F) {
	for kind, data := range samples() {
		f.Add(kind, data)
	}
	f.Add(byte(kindTree), push(stamped(3, 4)).Payload)
	f.Add(byte(kindSetOpen), samples()[kindSetStep])
	f.Add(byte(kindSnapshot), append(make([]byte, 16), appendDeltas(nil, []store.Delta{stamped(3, 4)})...))
	f.Add(byte(kindSnapshotAsk), make([]byte, 8))
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		if again := decoders[kind]; again != nil {
			if first, err := again(data); err == nil {
				second, err := again(first)
				if err != nil || !bytes.Equal(first, second) {
					t.Fatalf("%x, then %x, %v", first, second, err)
				}
			}
		}
		r := newReplica(1, 10)
		r.write("/registry/a", "1")
		c := NewCore(CoreOptions{Self: "a", Store: r, Random: rand.New(rand.NewPCG(1, 1))})
		c.Connect("b", true, 0)
		c.Take()
		for i := range 2 {
			c.Receive("b", Frame{Kind: kind, Payload: data}, time.Duration(i)*time.Second)
			c.Tick(time.Duration(i) * time.Second)
			out := c.Take()
			for _, w := range out.Work {
				c.Finish(w.Token, w.Do(t.Context(), r, func(Frame) error { return nil }), time.Second)
			}
			for _, m := range out.Merge {
				c.Merged(m.Token, nil, time.Second)
			}
			if n := len(c.Take().Send) + len(out.Send); n > 64 {
				t.Fatalf("%d frames for one", n)
			}
		}
	})
}
