// Package backup is the file format of `shoal backup`: a header, the records of
// a cell as of one moment, the cell's own key files, and a checksum.
//
// What always holds: a file is taken as whole or not at all. Reader.Verify
// names the first thing that is wrong with a file that was cut short or
// altered; whoever restores verifies the whole file first. The checksum guards
// against accidents, not against somebody who can write the file: it holds the
// cell's keys and must be kept as they are.
//
// Values travel as the store has them, secrets included. The package knows
// neither badger nor the API, because the client that writes the file to disk
// builds for any operating system.
//
// The form, all integers unsigned varints:
//
//	"shoal backup\n" | header as JSON, "\n" | entries | end | SHA-256 of all before
//	entry: kind byte (1 record, 2 file) | length of the rest | expires | name length | name | uid length | uid | content
//	end:   kind byte 0 | count of entries
package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// Format is the version of the form that this binary writes and reads.
const Format = 1

const magic = "shoal backup\n"

// Limits of what a reader believes.
const (
	maxHeaderBytes = 64 << 10
	// maxEntryBytes holds the largest object (1.5 MiB), its key and its uid.
	maxEntryBytes = 2 << 20
	// maxNameBytes is the longest key of the store.
	maxNameBytes = 2048
	maxUIDBytes  = 255
)

// Header says what a file is.
type Header struct {
	Format int `json:"format"`
	// Cell and Peer say whose records these are and who wrote them down.
	Cell string    `json:"cell"`
	Peer string    `json:"peer"`
	Time time.Time `json:"time"`
	// Version is the peer's own position that all records are of.
	Version uint64 `json:"version"`
	Records int64  `json:"records"`
	Files   int    `json:"files"`
}

// Kind tells entries apart.
type Kind byte

const (
	end Kind = 0
	// Record is one of the store's.
	Record Kind = 1
	// File is one of the cell's key files, by its path below the data directory.
	File Kind = 2
)

// Entry is one record or file.
type Entry struct {
	Kind Kind
	Name string
	UID  string
	// ExpiresMicros, if not zero, ends the record then: microseconds since 2024.
	ExpiresMicros uint64
	Content       []byte
}

// Writer writes one backup.
type Writer struct {
	out   *bufio.Writer
	sum   hash.Hash
	buf   []byte
	count uint64
}

// NewWriter writes the header h.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.Format = Format
	header, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode backup header: %w", err)
	}
	b := &Writer{sum: sha256.New()}
	b.out = bufio.NewWriterSize(io.MultiWriter(w, b.sum), 64<<10)
	if _, err := fmt.Fprintf(b.out, "%s%s\n", magic, header); err != nil {
		return nil, fmt.Errorf("write backup: %w", err)
	}
	return b, nil
}

// Add appends an entry.
func (b *Writer) Add(e Entry) error {
	b.buf = binary.AppendUvarint(b.buf[:0], e.ExpiresMicros)
	b.buf = append(binary.AppendUvarint(b.buf, uint64(len(e.Name))), e.Name...)
	b.buf = append(binary.AppendUvarint(b.buf, uint64(len(e.UID))), e.UID...)
	b.buf = append(b.buf, e.Content...)
	if len(b.buf) > maxEntryBytes {
		return fmt.Errorf("write backup: %s has %d bytes, more than the limit of %d", e.Name, len(b.buf), maxEntryBytes)
	}
	head := binary.AppendUvarint([]byte{byte(e.Kind)}, uint64(len(b.buf)))
	b.count++
	_, err := b.out.Write(head)
	if err == nil {
		_, err = b.out.Write(b.buf)
	}
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// Close writes the end and the checksum. It does not close the file.
func (b *Writer) Close() error {
	_, err := b.out.Write(binary.AppendUvarint([]byte{byte(end)}, b.count))
	if err == nil {
		err = b.out.Flush()
	}
	if err == nil {
		_, err = b.out.Write(b.sum.Sum(nil))
	}
	if err == nil {
		err = b.out.Flush()
	}
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// DamagedError says why a file is not a whole backup.
type DamagedError struct{ Reason string }

func (e *DamagedError) Error() string {
	return "this is not a whole backup: " + e.Reason
}

func damaged(format string, args ...any) error {
	return &DamagedError{fmt.Sprintf(format, args...)}
}

// Reader reads one backup.
type Reader struct {
	in     *bufio.Reader
	sum    hash.Hash
	header Header
	count  uint64
	buf    []byte
}

// NewReader reads the header.
func NewReader(r io.Reader) (*Reader, error) {
	b := &Reader{in: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(b.in, start); err != nil || string(start) != magic {
		if err != nil && !isShort(err) {
			return nil, fmt.Errorf("read backup: %w", err)
		}
		return nil, damaged("it does not begin as one")
	}
	b.sum.Write(start)
	line, err := b.headerLine()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(line, &b.header); err != nil {
		return nil, damaged("its header cannot be read: %v", err)
	}
	if b.header.Format != Format {
		return nil, fmt.Errorf("read backup: its format is %d, this shoal reads %d; use the release that wrote it", b.header.Format, Format)
	}
	return b, nil
}

func isShort(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func (b *Reader) headerLine() ([]byte, error) {
	var line []byte
	for len(line) == 0 || line[len(line)-1] != '\n' {
		c, err := b.byte()
		if err != nil {
			return nil, b.short(err)
		}
		if line = append(line, c); len(line) > maxHeaderBytes {
			return nil, damaged("its header does not end")
		}
	}
	return line, nil
}

// Header returns what the file says it is. Nothing is verified yet.
func (b *Reader) Header() Header { return b.header }

// Next returns the next entry, valid until the one after it, or io.EOF when all
// have been read and the checksum is right.
func (b *Reader) Next() (Entry, error) {
	kind, err := b.byte()
	if err != nil {
		return Entry{}, b.short(err)
	}
	length, err := b.uvarint()
	if err != nil {
		return Entry{}, err
	}
	switch Kind(kind) {
	case end:
		return Entry{}, b.finish(length)
	case Record, File:
	default:
		return Entry{}, damaged("entry %d is of a kind there is not (%d): the file was altered", b.count+1, kind)
	}
	if length > maxEntryBytes {
		return Entry{}, damaged("entry %d claims %d bytes: the file was altered", b.count+1, length)
	}
	if uint64(cap(b.buf)) < length {
		b.buf = make([]byte, length)
	}
	b.buf = b.buf[:length]
	if _, err := io.ReadFull(b.in, b.buf); err != nil {
		return Entry{}, b.short(err)
	}
	b.sum.Write(b.buf)
	b.count++
	e, ok := decodeEntry(b.buf)
	if !ok {
		return Entry{}, damaged("entry %d cannot be read: the file was altered", b.count)
	}
	e.Kind = Kind(kind)
	return e, nil
}

// Verify reads to the end and returns how many entries there were.
func (b *Reader) Verify() (entries uint64, err error) {
	for {
		if _, err := b.Next(); errors.Is(err, io.EOF) {
			return b.count, nil
		} else if err != nil {
			return b.count, err
		}
	}
}

// finish checks the count, the checksum and that nothing follows.
func (b *Reader) finish(count uint64) error {
	want := b.sum.Sum(nil)
	have := make([]byte, len(want))
	if _, err := io.ReadFull(b.in, have); err != nil {
		return b.short(err)
	}
	switch {
	case string(have) != string(want):
		return damaged("its checksum is wrong: the file was altered")
	case count != b.count || b.header.Records+int64(b.header.Files) != int64(count):
		return damaged("it has %d entries, its end speaks of %d and its header of %d", b.count, count, b.header.Records+int64(b.header.Files))
	}
	if _, err := b.in.ReadByte(); !errors.Is(err, io.EOF) {
		return damaged("something follows its end")
	}
	return io.EOF
}

func (b *Reader) byte() (byte, error) {
	c, err := b.in.ReadByte()
	if err == nil {
		b.sum.Write([]byte{c})
	}
	return c, err
}

func (b *Reader) uvarint() (uint64, error) {
	var raw []byte
	for len(raw) < binary.MaxVarintLen64 {
		c, err := b.byte()
		if err != nil {
			return 0, b.short(err)
		}
		if raw = append(raw, c); c < 0x80 {
			break
		}
	}
	v, n := binary.Uvarint(raw)
	if n <= 0 {
		return 0, damaged("entry %d has a bad length: the file was altered", b.count+1)
	}
	return v, nil
}

// short says where a file ends that should go on.
func (b *Reader) short(err error) error {
	if !isShort(err) {
		return fmt.Errorf("read backup: %w", err)
	}
	return damaged("it is cut short after %d of %d entries", b.count, b.header.Records+int64(b.header.Files))
}

func decodeEntry(b []byte) (e Entry, ok bool) {
	var n int
	if e.ExpiresMicros, n = binary.Uvarint(b); n <= 0 {
		return e, false
	}
	b = b[n:]
	name, b, ok := take(b, maxNameBytes)
	if !ok || len(name) == 0 {
		return e, false
	}
	uid, b, ok := take(b, maxUIDBytes)
	e.Name, e.UID, e.Content = string(name), string(uid), b
	return e, ok
}

func take(b []byte, limit uint64) (field, rest []byte, ok bool) {
	length, n := binary.Uvarint(b)
	if n <= 0 || length > limit || length > uint64(len(b)-n) {
		return nil, nil, false
	}
	b = b[n:]
	return b[:length], b[length:], true
}
