package policy

import (
	"crypto/sha256"
	"encoding/binary"

	"shoal/netdp/policy/tables"
)

// ids makes numbers out of what they stand for. Two texts with one hash, which
// nobody will meet by chance, get different numbers all the same.
type ids map[tables.ID]string

func (n ids) of(text string) tables.ID {
	for salted := text; ; salted += "\x00" {
		sum := sha256.Sum256([]byte(salted))
		id := tables.ID(binary.BigEndian.Uint64(sum[:]))
		if id < tables.FirstID {
			continue
		}
		if have, taken := n[id]; taken && have != text {
			continue
		}
		n[id] = text
		return id
	}
}
