//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Verdicts of a traffic control program (linux/pkt_cls.h).
const (
	actOK   = 0
	actShot = 2
)

// Cut separates the given peers from all others; within the set, and to the
// machine, they stay connected. Cuts add up until Heal.
func (l *Lab) Cut(ctx context.Context, peers ...int) error {
	return l.change(ctx, func() error {
		if len(peers) == 0 {
			return errors.New("cut: no peer given")
		}
		for _, n := range peers {
			if _, err := l.state.peer(n); err != nil {
				return err
			}
		}
		var cuts []direction
		for _, a := range peers {
			for _, b := range l.state.Peers {
				if !slices.Contains(peers, b.Number) {
					cuts = append(cuts, direction{a, b.Number}, direction{b.Number, a})
				}
			}
		}
		if len(cuts) == 0 {
			return fmt.Errorf("cut: these are all the lab's %d peers; nobody is left to cut them from", len(l.state.Peers))
		}
		return l.addCuts(cuts)
	})
}

// CutOneWay drops what from sends to to, and not what to sends to from.
func (l *Lab) CutOneWay(ctx context.Context, from, to []int) error {
	return l.change(ctx, func() error {
		var cuts []direction
		for _, a := range from {
			for _, b := range to {
				_, errA := l.state.peer(a)
				_, errB := l.state.peer(b)
				if err := errors.Join(errA, errB); err != nil {
					return err
				}
				if a != b {
					cuts = append(cuts, direction{a, b})
				}
			}
		}
		if len(cuts) == 0 {
			return errors.New("cut: --from and --to name no two different peers")
		}
		return l.addCuts(cuts)
	})
}

// addCuts records cuts and makes them.
func (l *Lab) addCuts(cuts []direction) error {
	for _, c := range cuts {
		if !slices.Contains(l.state.Cuts, c) {
			l.state.Cuts = append(l.state.Cuts, c)
		}
	}
	for _, p := range l.state.Peers {
		if err := l.filter(p); err != nil {
			return err
		}
	}
	return nil
}

// Heal undoes all cuts and slow links.
func (l *Lab) Heal(ctx context.Context) error {
	return l.change(ctx, func() error {
		l.state.Cuts = nil
		var problems []error
		for _, p := range l.state.Peers {
			p.Slow = nil
			problems = append(problems, l.unslow(ctx, p), l.filter(p))
		}
		return errors.Join(problems...)
	})
}

// filter makes a peer's port drop what the recorded cuts say. The programs sit
// on the port's traffic control hooks and go away with it. A dead peer has no
// port; its next start filters it.
func (l *Lab) filter(p *peer) error {
	if !p.Init.alive() {
		return nil
	}
	link, err := netlink.LinkByName(l.port(p.Number))
	if err != nil {
		return fmt.Errorf("find link of %s: %w", p.Name, err)
	}
	hook := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	var from []int
	for _, c := range l.state.Cuts {
		if c.To == p.Number {
			from = append(from, c.From)
		}
	}
	if len(from) == 0 && p.Slow == nil {
		if err := netlink.QdiscDel(hook); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("heal link of %s: %w", p.Name, err)
		}
		return nil
	}
	if err := netlink.QdiscReplace(hook); err != nil {
		return fmt.Errorf("cut link of %s: %w; it needs a kernel with CONFIG_NET_CLS_ACT", p.Name, err)
	}
	if err := attach(link, netlink.HANDLE_MIN_EGRESS, l.dropFrom(from)); err != nil {
		return fmt.Errorf("cut link of %s: %w", p.Name, err)
	}
	// While a relay carries the frames of a slow link, the machine's own stack
	// must not take them as well.
	verdict := int32(actOK)
	if p.Slow != nil {
		verdict = actShot
	}
	if err := attach(link, netlink.HANDLE_MIN_INGRESS, always(verdict)); err != nil {
		return fmt.Errorf("slow link of %s: %w", p.Name, err)
	}
	return nil
}

// always is a program with one answer.
func always(verdict int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}
}

// dropFrom is a program that drops the frames of some peers, which it knows by
// their source address. It lets ARP pass, so that a cut in one direction stays
// one: without answers to it the other direction would die within a minute.
func (l *Lab) dropFrom(peers []int) asm.Instructions {
	arp := int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)))
	const sourceOffset, length = 6, 6
	if len(peers) == 0 {
		return always(actOK)
	}
	const protocolOffset = 16 // in struct __sk_buff
	prefix := l.hardware(0)
	program := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, protocolOffset, asm.Word),
		asm.JEq.Imm(asm.R2, arp, "pass"),
		asm.Mov.Imm(asm.R2, sourceOffset),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, -8),
		asm.Mov.Imm(asm.R4, length),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, -8, asm.Word),
		asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint32(prefix)), asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R2, "pass"),
		asm.LoadMem(asm.R1, asm.RFP, -4, asm.Byte),
		asm.JNE.Imm(asm.R1, int32(prefix[4]), "pass"),
		asm.LoadMem(asm.R1, asm.RFP, -3, asm.Byte),
	}
	for _, n := range peers {
		program = append(program, asm.JEq.Imm(asm.R1, int32(n), "drop"))
	}
	return append(program,
		asm.Mov.Imm(asm.R0, actOK).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, actShot).WithSymbol("drop"),
		asm.Return(),
	)
}

// attach puts a program on one of a link's hooks, in the place of the last one.
func attach(link netlink.Link, hook uint32, program asm.Instructions) error {
	loaded, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "shoal_lab", Type: ebpf.SchedCLS, Instructions: program, License: "GPL"})
	if err != nil {
		return fmt.Errorf("load filter: %w", err)
	}
	defer func() { _ = loaded.Close() }()
	filter := &netlink.BpfFilter{
		FilterAttrs:  netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: hook, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:           loaded.FD(),
		Name:         "shoal_lab",
		DirectAction: true,
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("attach filter: %w; it needs a kernel with CONFIG_NET_CLS_BPF", err)
	}
	return nil
}
