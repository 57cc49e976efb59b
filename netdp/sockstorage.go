package netdp

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Socket storage is found by its socket alone, so a program goes over all sockets
// that an old map has something for and gives them the same in the new one. It is
// made here, since only here is known which field goes where.

// Where the program's context has its socket and value
// (struct bpf_iter__bpf_sk_storage_map, Linux 5.10).
const (
	iterSocketOffset = 16
	iterValueOffset  = 24
	storageCreate    = 1 // BPF_SK_STORAGE_GET_F_CREATE
)

// socketIter makes the program and ties it to the old map. Unless overwrite, it leaves a
// socket alone that has storage in the new map: programs of this daemon wrote it.
func socketIter(old, fresh *ebpf.Map, moves []move, overwrite bool) (*link.Iter, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "carry_sockets", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_sk_storage_map",
		License: "Dual BSD/GPL", Instructions: socketCopy(fresh, moves, overwrite),
	})
	if err != nil {
		return nil, fmt.Errorf("load program over sockets: %w", err)
	}
	defer prog.Close()
	iter, err := link.AttachIter(link.IterOptions{Program: prog, Map: old})
	return iter, named("attach program over sockets", err)
}

func socketCopy(fresh *ebpf.Map, moves []move, overwrite bool) asm.Instructions {
	get := func(flags int32) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, fresh.FD()),
			asm.LoadMem(asm.R2, asm.R6, iterSocketOffset, asm.DWord),
			asm.JEq.Imm(asm.R2, 0, "out"),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, flags),
			asm.FnSkStorageGet.Call(),
		}
	}
	out := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, iterValueOffset, asm.DWord),
		asm.JEq.Imm(asm.R7, 0, "out"),
	}
	if !overwrite {
		out = append(out, get(0)...)
		out = append(out, asm.JNE.Imm(asm.R0, 0, "out"))
	}
	out = append(out, get(storageCreate)...)
	out = append(out, asm.JEq.Imm(asm.R0, 0, "out"))
	for _, m := range moves {
		for done := uint32(0); done < m.n; {
			size := asm.DWord
			for uint32(size.Sizeof()) > m.n-done || (m.from+done|m.to+done)%uint32(size.Sizeof()) != 0 {
				size = map[asm.Size]asm.Size{asm.DWord: asm.Word, asm.Word: asm.Half, asm.Half: asm.Byte}[size]
			}
			out = append(out,
				asm.LoadMem(asm.R1, asm.R7, int16(m.from+done), size),
				asm.StoreMem(asm.R0, int16(m.to+done), asm.R1, size))
			done += uint32(size.Sizeof())
		}
	}
	return append(out, asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return())
}

// runIter runs it over all sockets.
func runIter(iter *link.Iter) error {
	r, err := iter.Open()
	if err != nil {
		return fmt.Errorf("open program over sockets: %w", err)
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(named("run program over sockets", err), r.Close())
}
