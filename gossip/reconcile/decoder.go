package reconcile

import (
	"encoding/binary"
	"errors"
)

// ErrCorrupt is wrapped by every decoding failure.
var ErrCorrupt = errors.New("corrupt reconciliation message")

// decoder reads wire forms; after the first failure it reads nothing more.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) uvarint() uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.data)
	if n <= 0 || n > 1 && d.data[n-1] == 0 { // a longer form than needed
		d.err = ErrCorrupt
		return 0
	}
	d.data = d.data[n:]
	return v
}

// count reads a number that is at most most.
func (d *decoder) count(most uint64) uint64 {
	n := d.uvarint()
	if n > most {
		d.err = ErrCorrupt
		return 0
	}
	return n
}

func (d *decoder) bytes(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.data)) {
		d.err = ErrCorrupt
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) fixed64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
