package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// witnessFile has the last sequence number of this peer's actor that is on disk, for
// telling at the next start that the database has less: a log that lost its
// end, or a disk that lost what it said was synced, look like nothing happened
// otherwise. It is overwritten in place after a commit and never synced, so
// that it is never ahead of what was.
const witnessFile = "shoal.witness"

// witnessBytes: actor, sequence, checksum.
const witnessBytes = 20

// witness is the committer's alone once the database is open.
type witness struct {
	file     *os.File
	actor    Actor
	sequence uint64
}

func openWitness(dir string) (*witness, error) {
	file, err := os.OpenFile(filepath.Join(dir, witnessFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open witness: %w", err)
	}
	w := &witness{file: file}
	var b [witnessBytes]byte
	if _, err := file.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read witness: %w", err), file.Close())
	}
	// One that is torn says nothing.
	if crc32.ChecksumIEEE(b[:16]) == binary.BigEndian.Uint32(b[16:]) {
		w.actor, w.sequence = Actor(binary.BigEndian.Uint64(b[:])), binary.BigEndian.Uint64(b[8:])
	}
	return w, nil
}

// lost reports how many writes of this actor are missing.
func (w *witness) lost(actor Actor, sequence uint64) uint64 {
	if w.actor != actor || w.sequence <= sequence {
		return 0
	}
	return w.sequence - sequence
}

// note is called after what it says was synced. A full disk takes it too, as
// the file does not grow; where it fails there is one witness less.
func (w *witness) note(actor Actor, sequence uint64) {
	if w.actor == actor && w.sequence == sequence {
		return
	}
	w.actor, w.sequence = actor, sequence
	var b [witnessBytes]byte
	binary.BigEndian.PutUint64(b[:], uint64(actor))
	binary.BigEndian.PutUint64(b[8:], sequence)
	binary.BigEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b[:16]))
	_, _ = w.file.WriteAt(b[:], 0)
}
