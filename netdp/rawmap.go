package netdp

import (
	"errors"
	"reflect"
	"unsafe"

	"github.com/cilium/ebpf"
)

// rawBuffer holds count elements of size bytes: slice is what batch calls take, its
// memory is bytes.
type rawBuffer struct {
	slice reflect.Value
	bytes []byte
	size  int
}

func newRawBuffer(size uint32, count int) rawBuffer {
	element := reflect.ArrayOf(int(size), reflect.TypeFor[byte]())
	slice := reflect.MakeSlice(reflect.SliceOf(element), count, count)
	return rawBuffer{
		slice: slice, size: int(size),
		bytes: unsafe.Slice((*byte)(slice.UnsafePointer()), int(size)*count),
	}
}

func (b rawBuffer) at(i int) []byte { return b.bytes[i*b.size : (i+1)*b.size] }
func (b rawBuffer) all() any        { return b.slice.Interface() }

// readRaw calls f with each batch of a map of any shape: n keys and values, which f
// may not keep. An error of f ends it.
func readRaw(m *ebpf.Map, f func(n int, keys, values rawBuffer) error) error {
	keys, values := newRawBuffer(m.KeySize(), adoptBatch), newRawBuffer(m.ValueSize(), adoptBatch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys.all(), values.all(), nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		if ferr := f(n, keys, values); ferr != nil {
			return ferr
		}
		if err != nil {
			return nil
		}
	}
}
