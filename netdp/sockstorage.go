package netdp

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// Socket storage is found by its socket alone, so a program goes over all sockets
// that an old map has something for and gives them the same in the new one. It is
// made here, since only here is known which field goes where.

// Where programs' contexts have what they need (struct bpf_iter__bpf_sk_storage_map,
// Linux 5.10; struct bpf_iter__task_file, Linux 5.8).
const (
	iterSocketOffset = 16
	iterValueOffset  = 24
	iterFileOffset   = 24
	storageCreate    = 1 // BPF_SK_STORAGE_GET_F_CREATE
)

// socketIter makes the program and ties it to the old map. Unless overwrite, it leaves a
// socket alone that has storage in the new map: programs of this daemon wrote it. Where
// the kernel lets nobody go over socket storage, as some are hardened, it goes over
// the open files of all processes that the daemon sees.
func socketIter(old, fresh *ebpf.Map, moves []move, overwrite bool) (*link.Iter, error) {
	iter, err := iterByStorage(old, fresh, moves, overwrite)
	if err == nil {
		return iter, nil
	}
	iter, other := iterByFiles(old, fresh, moves, overwrite)
	if other != nil {
		return nil, errors.Join(fmt.Errorf("go over socket storage: %w", err), fmt.Errorf("go over open files: %w", other))
	}
	return iter, nil
}

func iterByStorage(old, fresh *ebpf.Map, moves []move, overwrite bool) (*link.Iter, error) {
	return attachIter("bpf_sk_storage_map", old, append(asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, iterSocketOffset, asm.DWord),
		asm.LoadMem(asm.R7, asm.R1, iterValueOffset, asm.DWord),
	}, socketCopy(fresh, moves, overwrite)...))
}

func iterByFiles(old, fresh *ebpf.Map, moves []move, overwrite bool) (*link.Iter, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, err
	}
	var socket *btf.Struct
	if err := kernel.TypeByName("socket", &socket); err != nil {
		return nil, err
	}
	sk := slices.IndexFunc(socket.Members, func(m btf.Member) bool { return m.Name == "sk" })
	if sk < 0 {
		return nil, errors.New("the kernel's struct socket has no sk")
	}
	return attachIter("task_file", nil, append(append(asm.Instructions{
		asm.LoadMem(asm.R1, asm.R1, iterFileOffset, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "out"),
		asm.FnSockFromFile.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R6, asm.R0, int16(socket.Members[sk].Offset.Bytes()), asm.DWord),
		asm.JEq.Imm(asm.R6, 0, "out"),
	}, append(storageOf(old, 0), asm.Mov.Reg(asm.R7, asm.R0))...), socketCopy(fresh, moves, overwrite)...))
}

// attachIter ties a program to an iterator of the kernel; m is the map it goes over, if
// it does over one.
func attachIter(target string, m *ebpf.Map, instructions asm.Instructions) (*link.Iter, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "carry_sockets", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: target,
		License: "Dual BSD/GPL", Instructions: instructions,
	})
	if err != nil {
		return nil, fmt.Errorf("load program: %w", err)
	}
	defer prog.Close()
	iter, err := link.AttachIter(link.IterOptions{Program: prog, Map: m})
	return iter, named("attach program", err)
}

// storageOf leaves in R0 what a map has for the socket in R6.
func storageOf(m *ebpf.Map, flags int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.R6),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, flags),
		asm.FnSkStorageGet.Call(),
	}
}

// socketCopy moves what R7 points to, which may be nothing, to the storage of the socket
// in R6 in the new map.
func socketCopy(fresh *ebpf.Map, moves []move, overwrite bool) asm.Instructions {
	out := asm.Instructions{
		asm.JEq.Imm(asm.R6, 0, "out"),
		asm.JEq.Imm(asm.R7, 0, "out"),
	}
	if !overwrite {
		out = append(out, storageOf(fresh, 0)...)
		out = append(out, asm.JNE.Imm(asm.R0, 0, "out"))
	}
	out = append(out, storageOf(fresh, storageCreate)...)
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
