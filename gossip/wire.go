package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

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

// decoder reads wire forms; after the first failure it reads nothing more.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = ErrCorrupt
	}
	d.data = nil
}

func (d *decoder) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(d.data)
	if d.err != nil || n <= 0 || v > most {
		d.fail()
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) fixed64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.data)) {
		d.fail()
		return nil
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) bytes(most uint64) []byte { return d.take(d.uvarint(most)) }

// vector refuses what no peer can hold.
func (d *decoder) vector() vector.Vector {
	if d.err != nil {
		return nil
	}
	v, rest, err := vector.DecodeVector(d.data)
	if err != nil {
		d.fail()
		return nil
	}
	for actor, spans := range v {
		if actor == 0 || spans[len(spans)-1].Last > maxSequence {
			d.fail()
			return nil
		}
	}
	d.data = rest
	return v
}

// end is the error of the whole, also for bytes too many.
func (d *decoder) end(what string) error {
	if d.err == nil && len(d.data) > 0 {
		d.fail()
	}
	if d.err != nil {
		return fmt.Errorf("decode %s: %w", what, d.err)
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
	d := decoder{data: data}
	flags := d.byte()
	s := summary{Actor: vector.Actor(d.fixed64()), Digest: d.fixed64(), Fingerprint: d.fixed64(), Floor: d.fixed64(), Urgent: flags == 1}
	if flags > 1 || s.Actor == 0 {
		d.fail()
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
	d := decoder{data: data}
	flags := d.byte()
	h := holding{Actor: vector.Actor(d.fixed64()), Floor: d.fixed64(), Urgent: flags&1 != 0, Answer: flags&2 != 0}
	h.Vector = d.vector()
	if flags > 3 || h.Actor == 0 {
		d.fail()
	}
	return h, d.end("vector")
}

func decodeWant(data []byte) (vector.Vector, error) {
	d := decoder{data: data}
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
	d := decoder{data: data}
	flags := d.byte()
	a := answer{Covered: d.vector(), Gone: flags == 1}
	if flags > 1 {
		d.fail()
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
	for len(d.data) > 0 {
		data := d.bytes(stream.MaxFrameBytes)
		if d.err != nil || len(deltas) >= frameDeltas {
			d.fail()
			return nil
		}
		delta, err := decodeDelta(data)
		if err != nil {
			d.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
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
	d := decoder{data: data}
	flags := d.byte()
	s := setStep{ID: d.fixed64(), Number: d.uvarint(maxSteps), Replica: flags&1 != 0, Last: flags&2 != 0, Cut: flags&4 != 0, Diverged: flags&8 != 0}
	if s.Replica {
		s.Floor, s.Vector = d.fixed64(), d.vector()
	}
	if flags > 15 || d.err != nil {
		d.fail()
		return setStep{}, d.end("set message")
	}
	var err error
	if s.Message, err = reconcile.DecodeMessage(d.data); err != nil {
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
	d := decoder{data: data}
	flags := d.byte()
	e := setEnd{ID: d.fixed64(), Failed: flags == 1}
	if flags > 1 {
		d.fail()
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
	d := decoder{data: data}
	a := statesAsk{ID: d.fixed64(), Round: d.uvarint(maxRounds)}
	for len(d.data) > 0 {
		key := d.bytes(store.MaxKeyBytes)
		if len(key) == 0 || len(a.Keys) >= stateKeys {
			d.fail()
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
	d := decoder{data: data}
	s := states{ID: d.fixed64(), Round: d.uvarint(maxRounds), Answered: int(d.uvarint(stateKeys))}
	s.Deltas = d.deltas()
	return s, d.end("states")
}

func decodeSnapshotAsk(data []byte) (uint64, error) {
	d := decoder{data: data}
	id := d.fixed64()
	return id, d.end("question for a snapshot")
}

// chunk is a part of a snapshot.
type chunk struct {
	ID, Part uint64
	Deltas   []store.Delta
}

func decodeChunk(data []byte) (chunk, error) {
	d := decoder{data: data}
	c := chunk{ID: d.fixed64(), Part: d.fixed64()}
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
	d := decoder{data: data}
	flags := d.byte()
	e := snapshotEnd{ID: d.fixed64(), Parts: d.fixed64(), Floor: d.fixed64(), Failed: flags == 1}
	e.Vector = d.vector()
	if flags > 1 {
		d.fail()
	}
	return e, d.end("end of a snapshot")
}
