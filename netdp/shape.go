package netdp

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// shape is what a map's keys and values are in memory. A type is nil where the map
// was declared by sizes alone.
type shape struct {
	keySize, valueSize uint32
	key, value         btf.Type
}

func shapeOfSpec(s *ebpf.MapSpec) shape {
	return shape{keySize: s.KeySize, valueSize: s.ValueSize, key: s.Key, value: s.Value}
}

// shapeOfMap asks the kernel, which keeps the type information a map was made with
// (struct bpf_map_info, Linux 4.18).
func shapeOfMap(m *ebpf.Map) (shape, error) {
	s := shape{keySize: m.KeySize(), valueSize: m.ValueSize()}
	info := new(struct {
		kind, id, keySize, valueSize, maxEntries, flags uint32
		name                                            [16]byte
		ifindex, vmlinuxValue                           uint32
		netnsDev, netnsInode                            uint64
		btf, btfKey, btfValue, vmlinux                  uint32
	})
	var pinned runtime.Pinner // the kernel gets the address as a number
	pinned.Pin(info)
	defer pinned.Unpin()
	attr := struct {
		fd, size uint32
		info     uint64
	}{uint32(m.FD()), uint32(unsafe.Sizeof(*info)), uint64(uintptr(unsafe.Pointer(info)))}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return s, fmt.Errorf("inspect map: %w", errno)
	}
	if info.btf == 0 {
		return s, nil
	}
	handle, err := btf.NewHandleFromID(btf.ID(info.btf))
	if err != nil {
		return s, fmt.Errorf("inspect types of map: %w", err)
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return s, fmt.Errorf("read types of map: %w", err)
	}
	for _, part := range []struct {
		id  uint32
		typ *btf.Type
	}{{info.btfKey, &s.key}, {info.btfValue, &s.value}} {
		if part.id == 0 {
			continue
		}
		if *part.typ, err = spec.TypeByID(btf.TypeID(part.id)); err != nil {
			return s, fmt.Errorf("read types of map: %w", err)
		}
	}
	return s, nil
}

// move copies n bytes of an old value, from an offset, to one of the new value.
type move struct{ from, to, n uint32 }

// movesTo tells how an entry of shape s becomes one of shape to: keys are the same
// byte by byte, values go over field by field, by the fields' names. What only the
// new value has is zero. A field whose meaning changes therefore needs a new name.
//
// A map without types was made when its declaration had none; of the same sizes it is
// what it was.
func (s shape) movesTo(to shape) ([]move, error) {
	if s.key == nil && s.value == nil && s.keySize == to.keySize && s.valueSize == to.valueSize {
		return []move{{n: s.valueSize}}, nil
	}
	if s.keySize != to.keySize || typeForm(s.key) != typeForm(to.key) {
		return nil, errors.New("its keys have another form")
	}
	if s.value == nil || to.value == nil {
		return nil, errors.New("nothing tells what its values are made of")
	}
	moves, err := movesOf(nil, s.value, to.value, move{})
	if err != nil {
		return nil, err
	}
	return joined(moves), nil
}

func typeForm(t btf.Type) string {
	var b strings.Builder
	writeShape(&b, t)
	return b.String()
}

// movesOf appends the moves of one type; at has the offsets of both.
func movesOf(moves []move, from, to btf.Type, at move) ([]move, error) {
	from, to = btf.UnderlyingType(from), btf.UnderlyingType(to)
	switch old := from.(type) {
	case *btf.Struct:
		if fresh, ok := to.(*btf.Struct); ok {
			return movesOfFields(moves, old, fresh, at)
		}
	case *btf.Array:
		if fresh, ok := to.(*btf.Array); ok {
			return movesOfElements(moves, old, fresh, at)
		}
	case *btf.Int:
		if fresh, ok := to.(*btf.Int); ok && old.Encoding == fresh.Encoding &&
			(old.Size == fresh.Size || old.Size < fresh.Size && old.Encoding == btf.Unsigned) {
			at.n = old.Size // programs and maps are little-endian: a longer number has its zeros behind
			return append(moves, at), nil
		}
	}
	if typeForm(from) != typeForm(to) {
		return nil, fmt.Errorf("%v became %v", from, to)
	}
	size, err := btf.Sizeof(from)
	if err != nil {
		return nil, err
	}
	at.n = uint32(size)
	return append(moves, at), nil
}

func movesOfFields(moves []move, old, fresh *btf.Struct, at move) ([]move, error) {
	byName := map[string]btf.Member{}
	for _, m := range old.Members {
		byName[m.Name] = m
	}
	for _, m := range fresh.Members {
		was, ok := byName[m.Name]
		if !ok {
			continue
		}
		if m.Name == "" || m.BitfieldSize > 0 || was.BitfieldSize > 0 {
			return nil, fmt.Errorf("struct %s has a field without a name or of bits", fresh.Name)
		}
		var err error
		moves, err = movesOf(moves, was.Type, m.Type, move{from: at.from + was.Offset.Bytes(), to: at.to + m.Offset.Bytes()})
		if err != nil {
			return nil, fmt.Errorf("field %s of struct %s: %w", m.Name, fresh.Name, err)
		}
	}
	return moves, nil
}

func movesOfElements(moves []move, old, fresh *btf.Array, at move) ([]move, error) {
	oldSize, err1 := btf.Sizeof(old.Type)
	freshSize, err2 := btf.Sizeof(fresh.Type)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	for i := range min(old.Nelems, fresh.Nelems) {
		var err error
		moves, err = movesOf(moves, old.Type, fresh.Type, move{from: at.from + i*uint32(oldSize), to: at.to + i*uint32(freshSize)})
		if err != nil {
			return nil, err
		}
	}
	return moves, nil
}

// joined makes one move of those that follow each other on both sides.
func joined(moves []move) (out []move) {
	for _, m := range moves {
		if last := len(out) - 1; last >= 0 && out[last].from+out[last].n == m.from && out[last].to+out[last].n == m.to {
			out[last].n += m.n
			continue
		}
		out = append(out, m)
	}
	return out
}

// convert writes the new form of a value into to, which is zero.
func convert(moves []move, from, to []byte) {
	for _, m := range moves {
		copy(to[m.to:m.to+m.n], from[m.from:m.from+m.n])
	}
}

// fieldAt is where a value has a number of a name, and its size; 0 bytes: nowhere.
func fieldAt(t btf.Type, name string) (offset, size uint32) {
	s, ok := btf.UnderlyingType(t).(*btf.Struct)
	if t == nil || !ok {
		return 0, 0
	}
	for _, m := range s.Members {
		if n, ok := btf.UnderlyingType(m.Type).(*btf.Int); ok && m.Name == name {
			return m.Offset.Bytes(), n.Size
		}
	}
	return 0, 0
}
