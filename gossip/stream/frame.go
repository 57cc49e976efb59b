package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Frame is one message on a link.
type Frame struct {
	// Kind says what Payload is; the kinds below FirstKind are the link's own.
	Kind    byte
	Payload []byte
}

const (
	// FirstKind is the first that users of a link may give a meaning.
	FirstKind = 16
	// keepAlive says nothing but that the peer is there.
	keepAlive = 0

	// MaxFrameBytes has room for one record of 1.5 MiB with all its stamps.
	MaxFrameBytes = 4 << 20
	headerBytes   = 5
)

// ErrBadFrame is wrapped when what arrives is not a frame.
var ErrBadFrame = errors.New("bad frame")

// appendFrame appends the length of the payload (4 bytes), the kind, and it.
func appendFrame(dst []byte, f Frame) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Payload)))
	dst = append(dst, f.Kind)
	return append(dst, f.Payload...)
}

func readFrame(r *bufio.Reader) (Frame, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(header[:])
	if n > MaxFrameBytes {
		return Frame{}, fmt.Errorf("read frame of %d bytes, limit %d: %w", n, MaxFrameBytes, ErrBadFrame)
	}
	f := Frame{Kind: header[4], Payload: make([]byte, n)}
	if f.Kind < FirstKind && f.Kind != keepAlive {
		return Frame{}, fmt.Errorf("read frame of kind %d: %w", f.Kind, ErrBadFrame)
	}
	if _, err := io.ReadFull(r, f.Payload); err != nil {
		return Frame{}, fmt.Errorf("read payload: %w", err)
	}
	return f, nil
}

// Versions are the protocol versions a peer speaks, both ends included.
type Versions struct{ Oldest, Newest uint16 }

// VersionError says that two peers have no protocol version in common.
type VersionError struct{ Ours, Theirs Versions }

func (e *VersionError) Error() string {
	old := "this peer"
	if e.Theirs.Newest < e.Ours.Oldest {
		old = "the other peer"
	}
	return fmt.Sprintf("no common protocol version: this peer speaks %d to %d, the other %d to %d; upgrade shoal on %s",
		e.Ours.Oldest, e.Ours.Newest, e.Theirs.Oldest, e.Theirs.Newest, old)
}

func (v Versions) common(o Versions) (uint16, error) {
	if n := min(v.Newest, o.Newest); n >= max(v.Oldest, o.Oldest) {
		return n, nil
	}
	return 0, &VersionError{Ours: v, Theirs: o}
}

// hello opens a link from both ends: a word and the versions.
const helloBytes = 9

var helloWord = [5]byte{'s', 'h', 'o', 'a', 'l'}

func writeHello(w io.Writer, v Versions) error {
	b := append(make([]byte, 0, helloBytes), helloWord[:]...)
	b = binary.BigEndian.AppendUint16(b, v.Oldest)
	b = binary.BigEndian.AppendUint16(b, v.Newest)
	_, err := w.Write(b)
	return err
}

func readHello(r io.Reader) (Versions, error) {
	var b [helloBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Versions{}, err
	}
	v := Versions{binary.BigEndian.Uint16(b[5:]), binary.BigEndian.Uint16(b[7:])}
	if [5]byte(b[:5]) != helloWord || v.Oldest > v.Newest {
		return Versions{}, fmt.Errorf("read hello: %w", ErrBadFrame)
	}
	return v, nil
}
