package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"shoal/store/vector"
)

// The log says under which key each of the latest dots is, so that another peer
// can be given what it lacks. Every commit leaves one chunk of it on disk,
// after the records themselves: a chunk that is there vouches for its records.
const (
	// defaultLogDots: over two minutes of 400 writes a second. Who lacks more
	// reconciles sets, which is cheaper from about there on.
	defaultLogDots = 1 << 16
	// maxChunkDots keeps a chunk of long keys below badger's value threshold.
	maxChunkDots = 1000

	keyChunks = "\x00log"
	keyState  = "\x00state"
)

// logged is one dot and the key it is under; an empty key is a void.
type loggedDot struct {
	dot Dot
	key string
}

// chunk is what one commit logged.
type chunk struct {
	version Version
	dots    []loggedDot
}

// dotLog is the log in memory.
type dotLog struct {
	chunks []chunk
	count  int
	actors map[Actor][]sequenced
}

type sequenced struct {
	sequence uint64
	key      string
}

func newDotLog() dotLog { return dotLog{actors: make(map[Actor][]sequenced)} }

func (l *dotLog) add(c chunk) {
	if len(c.dots) == 0 {
		return
	}
	l.chunks = append(l.chunks, c)
	l.count += len(c.dots)
	for _, d := range c.dots {
		list := l.actors[d.dot.Actor]
		at, found := position(list, d.dot.Sequence)
		if found {
			continue
		}
		l.actors[d.dot.Actor] = slices.Insert(list, at, sequenced{d.dot.Sequence, d.key})
	}
}

// position looks at the end first: dots mostly come in order.
func position(list []sequenced, sequence uint64) (int, bool) {
	if n := len(list); n == 0 || list[n-1].sequence < sequence {
		return n, false
	}
	return slices.BinarySearchFunc(list, sequence, func(s sequenced, want uint64) int {
		return cmp.Compare(s.sequence, want)
	})
}

// dropFirst forgets the oldest chunk.
func (l *dotLog) dropFirst() {
	c := l.chunks[0]
	l.chunks[0] = chunk{}
	l.chunks = l.chunks[1:]
	l.forget(c)
}

func (l *dotLog) forget(c chunk) {
	l.count -= len(c.dots)
	for _, d := range c.dots {
		list := l.actors[d.dot.Actor]
		at, found := position(list, d.dot.Sequence)
		switch {
		case !found:
		case len(list) == 1:
			delete(l.actors, d.dot.Actor)
		case at == 0:
			list[0] = sequenced{}
			l.actors[d.dot.Actor] = list[1:]
		default:
			l.actors[d.dot.Actor] = slices.Delete(list, at, at+1)
		}
	}
}

// chunkKey sorts chunks by version.
func chunkKey(v Version) string {
	return string(binary.BigEndian.AppendUint64([]byte(keyChunks), uint64(v)))
}

// appendChunk appends a chunk's form on disk: the clock reading at the commit
// (8 bytes), a count, then for each dot actor (8 bytes), sequence, and the key
// with its length.
func appendChunk(dst []byte, hlc HLC, dots []loggedDot) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(hlc))
	dst = binary.AppendUvarint(dst, uint64(len(dots)))
	for _, d := range dots {
		dst = binary.BigEndian.AppendUint64(dst, uint64(d.dot.Actor))
		dst = binary.AppendUvarint(dst, d.dot.Sequence)
		dst = appendBytes(dst, d.key)
	}
	return dst
}

func decodeChunk(b []byte) (hlc HLC, dots []loggedDot, err error) {
	d := newDecoder(b)
	hlc = HLC(d.Uint64())
	count := d.Uvarint()
	if d.Err() == nil && count > maxChunkDots {
		d.Fail("chunk too long")
	}
	for range count {
		dot := Dot{Actor: Actor(d.Uint64()), Sequence: d.Uvarint()}
		key := string(d.Bytes(MaxKeyBytes))
		if d.Err() != nil {
			break
		}
		dots = append(dots, loggedDot{dot, key})
	}
	if d.Err() == nil && len(d.Rest()) > 0 {
		d.Fail("chunk with bytes too many")
	}
	if d.Err() != nil {
		return 0, nil, fmt.Errorf("decode log chunk: %w", d.Err())
	}
	return hlc, dots, nil
}

// checkpoint is what the log no longer tells: the vector of all dots held, the
// clock and the floor.
type checkpoint struct {
	hlc    HLC
	floor  uint64
	vector vector.Vector
}

func appendCheckpoint(dst []byte, c checkpoint) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.hlc))
	dst = binary.AppendUvarint(dst, c.floor)
	return vector.AppendVector(dst, c.vector)
}

func decodeCheckpoint(b []byte) (checkpoint, error) {
	d := newDecoder(b)
	c := checkpoint{hlc: HLC(d.Uint64()), floor: d.Uvarint()}
	if d.Err() != nil {
		return c, fmt.Errorf("decode checkpoint: %w", d.Err())
	}
	v, rest, err := vector.DecodeVector(d.Rest())
	if err != nil {
		return c, fmt.Errorf("decode checkpoint: %w", err)
	}
	if len(rest) > 0 {
		return c, fmt.Errorf("decode checkpoint: %w: bytes too many", ErrCorruptRecord)
	}
	c.vector = v
	return c, nil
}
