package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"shoal/store/wire"

	"shoal/gossip/reconcile"
	"shoal/gossip/stream"
	"shoal/store"
	"shoal/store/vector"
)

// Frame is what travels on a link.
type Frame = stream.Frame

// The kinds of frames. Their numbers are the wire form.
const (
	kindTree = stream.FirstKind + iota
	kindCompare
	kindSame
	kindVector
	kindWant
	kindDeltas
	kindSetOpen
	kindSetStep
	kindSetEnd
	kindStatesAsk
	kindStates
	kindSnapshotAsk
	kindSnapshot
	kindSnapshotEnd
)

// ErrCorrupt is wrapped by every decoding failure.
var ErrCorrupt = errors.New("corrupt gossip message")

// decoder reads wire forms.
type decoder struct{ wire.Reader }

func newDecoder(data []byte) decoder { return decoder{wire.NewReader(data, ErrCorrupt)} }

// vector refuses what no peer can hold.
func (d *decoder) vector() vector.Vector {
	if d.Err() != nil {
		return nil
	}
	v, rest, err := vector.DecodeVector(d.Rest())
	if err != nil {
		d.Fail("not a value of its field")
		return nil
	}
	for actor, spans := range v {
		if actor == 0 || spans[len(spans)-1].Last > maxSequence {
			d.Fail("not a value of its field")
			return nil
		}
	}
	d.Skip(rest)
	return v
}

// end is the error of the whole, also for bytes too many.
func (d *decoder) end(what string) error {
	if d.Err() == nil && len(d.Rest()) > 0 {
		d.Fail("not a value of its field")
	}
	if d.Err() != nil {
		return fmt.Errorf("decode %s: %w", what, d.Err())
	}
	return nil
}

// summary is a whole replica in a few bytes.
type summary struct {
	Actor       vector.Actor
	Digest      uint64
	Fingerprint uint64
	Floor       uint64
	// Urgent: what is missing will not come by itself.
	Urgent bool
}

func appendSummary(dst []byte, s summary) []byte {
	dst = append(dst, flag(s.Urgent, 1))
	for _, x := range [...]uint64{uint64(s.Actor), s.Digest, s.Fingerprint, s.Floor} {
		dst = binary.BigEndian.AppendUint64(dst, x)
	}
	return dst
}

func decodeSummary(data []byte) (summary, error) {
	d := newDecoder(data)
	flags := d.Byte()
	s := summary{Actor: vector.Actor(d.Uint64()), Digest: d.Uint64(), Fingerprint: d.Uint64(), Floor: d.Uint64(), Urgent: flags == 1}
	if flags > 1 || s.Actor == 0 {
		d.Fail("not a value of its field")
	}
	return s, d.end("summary")
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// holding is a whole vector.
type holding struct {
	Actor  vector.Actor
	Floor  uint64
	Vector vector.Vector
	// Answer asks for the other's in return.
	Answer, Urgent bool
}

func appendHolding(dst []byte, h holding) []byte {
	dst = append(dst, flag(h.Urgent, 1)|flag(h.Answer, 2))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Actor))
	dst = binary.BigEndian.AppendUint64(dst, h.Floor)
	return vector.AppendVector(dst, h.Vector)
}

func decodeHolding(data []byte) (holding, error) {
	d := newDecoder(data)
	flags := d.Byte()
	h := holding{Actor: vector.Actor(d.Uint64()), Floor: d.Uint64(), Urgent: flags&1 != 0, Answer: flags&2 != 0}
	h.Vector = d.vector()
	if flags > 3 || h.Actor == 0 {
		d.Fail("not a value of its field")
	}
	return h, d.end("vector")
}

func decodeWant(data []byte) (vector.Vector, error) {
	d := newDecoder(data)
	v := d.vector()
	return v, d.end("question")
}

// answer is what was asked for by its dots.
type answer struct {
	Covered vector.Vector
	Deltas  []store.Delta
	// Gone: some of it is no longer logged.
	Gone bool
}

func appendAnswer(dst []byte, a answer) []byte {
	dst = append(dst, flag(a.Gone, 1))
	dst = vector.AppendVector(dst, a.Covered)
	return appendDeltas(dst, a.Deltas)
}

func decodeAnswer(data []byte) (answer, error) {
	d := newDecoder(data)
	flags := d.Byte()
	a := answer{Covered: d.vector(), Gone: flags == 1}
	if flags > 1 {
		d.Fail("not a value of its field")
	}
	a.Deltas = d.deltas()
	return a, d.end("answer")
}

// appendDeltas appends the length of each delta and it.
func appendDeltas(dst []byte, deltas []store.Delta) []byte {
	var buf []byte
	for i := range deltas {
		buf = store.AppendDelta(buf[:0], &deltas[i])
		dst = binary.AppendUvarint(dst, uint64(len(buf)))
		dst = append(dst, buf...)
	}
	return dst
}

// deltas reads to the end.
func (d *decoder) deltas() []store.Delta {
	var deltas []store.Delta
	for len(d.Rest()) > 0 {
		data := d.Bytes(stream.MaxFrameBytes)
		if d.Err() != nil || len(deltas) >= frameDeltas {
			d.Fail("not a value of its field")
			return nil
		}
		delta, err := decodeDelta(data)
		if err != nil {
			d.Fail(err.Error())
			return nil
		}
		deltas = append(deltas, delta)
	}
	return deltas
}

// decodeDelta refuses what an honest peer does not send.
func decodeDelta(data []byte) (store.Delta, error) {
	delta, err := store.DecodeDelta(data)
	if err != nil {
		return store.Delta{}, err
	}
	for _, dot := range delta.Dots() {
		if dot.Actor == 0 || dot.Sequence == 0 || dot.Sequence > maxSequence {
			return store.Delta{}, fmt.Errorf("dot %d of actor %x: %w", dot.Sequence, uint64(dot.Actor), ErrCorrupt)
		}
	}
	if store.ScopeOf(delta.Key) == store.HostScope {
		return store.Delta{}, fmt.Errorf("%s is another host's own: %w", delta.Key, ErrCorrupt)
	}
	return delta, nil
}

// setStep is a message of a set session, or its first, which opens it.
type setStep struct {
	ID uint64
	// Number counts the messages of both sides, from 0.
	Number uint64
	// Replica is set in each side's first message.
	Replica bool
	Vector  vector.Vector
	Floor   uint64
	// Last: the sender has no more to ask.
	Last bool
	// Cut: the sender left out some of what differs.
	Cut bool
	// Diverged: the session repairs what should not be; both sides say what.
	Diverged bool
	Message  reconcile.Message
}

func appendSetStep(dst []byte, s setStep) []byte {
	dst = append(dst, flag(s.Replica, 1)|flag(s.Last, 2)|flag(s.Cut, 4)|flag(s.Diverged, 8))
	dst = binary.BigEndian.AppendUint64(dst, s.ID)
	dst = binary.AppendUvarint(dst, s.Number)
	if s.Replica {
		dst = binary.BigEndian.AppendUint64(dst, s.Floor)
		dst = vector.AppendVector(dst, s.Vector)
	}
	return reconcile.AppendMessage(dst, s.Message)
}

func decodeSetStep(data []byte) (setStep, error) {
	d := newDecoder(data)
	flags := d.Byte()
	s := setStep{ID: d.Uint64(), Number: d.Count(maxSteps), Replica: flags&1 != 0, Last: flags&2 != 0, Cut: flags&4 != 0, Diverged: flags&8 != 0}
	if s.Replica {
		s.Floor, s.Vector = d.Uint64(), d.vector()
	}
	if flags > 15 || d.Err() != nil {
		d.Fail("not a value of its field")
		return setStep{}, d.end("set message")
	}
	var err error
	if s.Message, err = reconcile.DecodeMessage(d.Rest()); err != nil {
		return setStep{}, fmt.Errorf("decode set message: %w: %w", ErrCorrupt, err)
	}
	return s, nil
}

// setEnd says that the sender is done with a session, or why there is none.
type setEnd struct {
	ID uint64
	// Failed: the session is over for both.
	Failed bool
}

func appendSetEnd(dst []byte, e setEnd) []byte {
	return binary.BigEndian.AppendUint64(append(dst, flag(e.Failed, 1)), e.ID)
}

func decodeSetEnd(data []byte) (setEnd, error) {
	d := newDecoder(data)
	flags := d.Byte()
	e := setEnd{ID: d.Uint64(), Failed: flags == 1}
	if flags > 1 {
		d.Fail("not a value of its field")
	}
	return e, d.end("end of a set session")
}

// statesAsk asks for the states of keys.
type statesAsk struct {
	ID uint64
	// Round counts the questions of one side.
	Round uint64
	Keys  []string
}

func appendStatesAsk(dst []byte, a statesAsk) []byte {
	dst = binary.BigEndian.AppendUint64(dst, a.ID)
	dst = binary.AppendUvarint(dst, a.Round)
	for _, k := range a.Keys {
		dst = binary.AppendUvarint(dst, uint64(len(k)))
		dst = append(dst, k...)
	}
	return dst
}

func decodeStatesAsk(data []byte) (statesAsk, error) {
	d := newDecoder(data)
	a := statesAsk{ID: d.Uint64(), Round: d.Count(maxRounds)}
	for len(d.Rest()) > 0 {
		key := d.Bytes(store.MaxKeyBytes)
		if len(key) == 0 || len(a.Keys) >= stateKeys {
			d.Fail("not a value of its field")
			break
		}
		a.Keys = append(a.Keys, string(key))
	}
	return a, d.end("question for states")
}

// states answers for the first Answered of the keys asked for.
type states struct {
	ID, Round uint64
	Answered  int
	Deltas    []store.Delta
}

func appendStates(dst []byte, s states) []byte {
	dst = binary.BigEndian.AppendUint64(dst, s.ID)
	dst = binary.AppendUvarint(dst, s.Round)
	dst = binary.AppendUvarint(dst, uint64(s.Answered))
	return appendDeltas(dst, s.Deltas)
}

func decodeStates(data []byte) (states, error) {
	d := newDecoder(data)
	s := states{ID: d.Uint64(), Round: d.Count(maxRounds), Answered: int(d.Count(stateKeys))}
	s.Deltas = d.deltas()
	return s, d.end("states")
}

func decodeSnapshotAsk(data []byte) (uint64, error) {
	d := newDecoder(data)
	id := d.Uint64()
	return id, d.end("question for a snapshot")
}

// chunk is a part of a snapshot.
type chunk struct {
	ID, Part uint64
	Deltas   []store.Delta
}

func decodeChunk(data []byte) (chunk, error) {
	d := newDecoder(data)
	c := chunk{ID: d.Uint64(), Part: d.Uint64()}
	c.Deltas = d.deltas()
	return c, d.end("part of a snapshot")
}

// snapshotEnd is what a whole snapshot holds.
type snapshotEnd struct {
	ID     uint64
	Failed bool
	// Parts is how many were sent.
	Parts  uint64
	Floor  uint64
	Vector vector.Vector
}

func appendSnapshotEnd(dst []byte, e snapshotEnd) []byte {
	dst = append(dst, flag(e.Failed, 1))
	dst = binary.BigEndian.AppendUint64(dst, e.ID)
	dst = binary.BigEndian.AppendUint64(dst, e.Parts)
	dst = binary.BigEndian.AppendUint64(dst, e.Floor)
	return vector.AppendVector(dst, e.Vector)
}

func decodeSnapshotEnd(data []byte) (snapshotEnd, error) {
	d := newDecoder(data)
	flags := d.Byte()
	e := snapshotEnd{ID: d.Uint64(), Parts: d.Uint64(), Floor: d.Uint64(), Failed: flags == 1}
	e.Vector = d.vector()
	if flags > 1 {
		d.Fail("not a value of its field")
	}
	return e, d.end("end of a snapshot")
}
