package plumtree

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Peer names one peer, uniquely in the cell.
type Peer string

// ID names a message: which actor made it, and its how many-th it is.
type ID struct {
	Actor    uint64
	Sequence uint64
}

// Type says what a Message is for.
type Type uint8

// The types of messages. Their numbers are the wire form.
const (
	// Push carries one payload.
	Push Type = iota + 1
	// Announce says that the sender has these messages, and asks for a sign
	// that the receiver has them too.
	Announce
	// Have is that sign. It asks for nothing.
	Have
	// Graft asks for the payloads of these messages, if any, and for pushes
	// from now on.
	Graft
	// Prune asks for announcements instead of pushes.
	Prune
)

func (t Type) String() string {
	switch t {
	case Push:
		return "push"
	case Announce:
		return "announce"
	case Have:
		return "have"
	case Graft:
		return "graft"
	case Prune:
		return "prune"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Item is a message as it is spoken of, without its payload.
type Item struct {
	ID ID
	// Hops is how many links the payload crossed to reach the sender.
	Hops uint32
}

// Message is what travels on one link.
type Message struct {
	Type Type
	// Items is exactly one for Push, none for Prune.
	Items []Item
	// Payload is for Push alone.
	Payload []byte
}

// Limits of one message.
const (
	// MaxItems keeps an announcement under 24 KiB, well below one batch.
	MaxItems = 1024
	// MaxPayloadBytes is the largest record, 1.5 MiB, with its key and stamps.
	MaxPayloadBytes = 2 << 20
	// maxHops is more than any tree is deep; above it a count is a lie.
	maxHops = 1 << 20
)

// ErrCorrupt is wrapped by every decoding failure.
var ErrCorrupt = errors.New("corrupt broadcast message")

// Append appends m's wire form to dst: a type byte, a count, then for each item
// actor (8 bytes), sequence and hops (varints), then the payload to the end.
func Append(dst []byte, m Message) []byte {
	dst = append(dst, byte(m.Type))
	dst = binary.AppendUvarint(dst, uint64(len(m.Items)))
	for _, i := range m.Items {
		dst = binary.BigEndian.AppendUint64(dst, i.ID.Actor)
		dst = binary.AppendUvarint(dst, i.ID.Sequence)
		dst = binary.AppendUvarint(dst, uint64(i.Hops))
	}
	return append(dst, m.Payload...)
}

// Decode reads what Append wrote. The payload shares data's memory.
func Decode(data []byte) (Message, error) {
	if len(data) == 0 {
		return Message{}, fmt.Errorf("decode type: %w", ErrCorrupt)
	}
	m := Message{Type: Type(data[0])}
	if m.Type < Push || m.Type > Prune {
		return Message{}, fmt.Errorf("decode type %d: %w", data[0], ErrCorrupt)
	}
	count, rest, err := uvarint(data[1:], MaxItems)
	if err != nil {
		return Message{}, fmt.Errorf("decode count: %w", err)
	}
	for range count {
		var item Item
		if item, rest, err = decodeItem(rest); err != nil {
			return Message{}, err
		}
		m.Items = append(m.Items, item)
	}
	if err := checkShape(m.Type, len(m.Items), len(rest)); err != nil {
		return Message{}, err
	}
	if m.Type == Push {
		m.Payload = rest
	}
	return m, nil
}

func decodeItem(data []byte) (Item, []byte, error) {
	const actorBytes = 8
	if len(data) < actorBytes {
		return Item{}, nil, fmt.Errorf("decode actor: %w", ErrCorrupt)
	}
	item := Item{ID: ID{Actor: binary.BigEndian.Uint64(data)}}
	sequence, rest, err := uvarint(data[actorBytes:], 1<<64-1)
	if err != nil {
		return Item{}, nil, fmt.Errorf("decode sequence: %w", err)
	}
	hops, rest, err := uvarint(rest, maxHops)
	if err != nil {
		return Item{}, nil, fmt.Errorf("decode hops: %w", err)
	}
	item.ID.Sequence, item.Hops = sequence, uint32(hops)
	return item, rest, nil
}

func checkShape(t Type, items, trailing int) error {
	switch {
	case t == Push && items != 1, t == Prune && items != 0:
		return fmt.Errorf("decode %s with %d items: %w", t, items, ErrCorrupt)
	case t != Push && trailing != 0:
		return fmt.Errorf("decode %s with %d bytes too many: %w", t, trailing, ErrCorrupt)
	case trailing > MaxPayloadBytes:
		return fmt.Errorf("decode payload of %d bytes: %w", trailing, ErrCorrupt)
	}
	return nil
}

func uvarint(data []byte, most uint64) (uint64, []byte, error) {
	v, n := binary.Uvarint(data)
	if n <= 0 || v > most {
		return 0, nil, ErrCorrupt
	}
	return v, data[n:], nil
}
