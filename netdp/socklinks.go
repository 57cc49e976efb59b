package netdp

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"shoal/bpf"
)

// sockPrograms are attached at the cgroup, each by its own pinned link.
var sockPrograms = []struct {
	name   string
	attach ebpf.AttachType
}{
	{bpf.DatapathProgSockConnect4, ebpf.AttachCGroupInet4Connect},
	{bpf.DatapathProgSockConnect6, ebpf.AttachCGroupInet6Connect},
	{bpf.DatapathProgSockSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{bpf.DatapathProgSockSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
	{bpf.DatapathProgSockRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
	{bpf.DatapathProgSockRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
	{bpf.DatapathProgSockGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{bpf.DatapathProgSockGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{bpf.DatapathProgSockPostBind4, ebpf.AttachCGroupInet4PostBind},
	{bpf.DatapathProgSockPostBind6, ebpf.AttachCGroupInet6PostBind},
}

// attachSock puts the sock programs in place: into the link an earlier daemon
// pinned, which swaps them without a gap, or by a new one.
func (d *Datapath) attachSock() error {
	for _, p := range sockPrograms {
		if err := d.attachSockProgram(p.name, p.attach); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) attachSockProgram(name string, attach ebpf.AttachType) error {
	path := d.pins.link(name)
	err := d.replaceInLink(path, d.progs[name])
	if err == nil {
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{
		Path: d.opts.CgroupRoot, Attach: attach, Program: d.progs[name],
	})
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", name, d.opts.CgroupRoot, err)
	}
	if err := d.pinAndHold(l, path); err != nil {
		return fmt.Errorf("attach %s: %w", name, err)
	}
	return nil
}

// replaceInLink fails with os.ErrNotExist when there is no such link, or it
// lost what it was attached to.
func (d *Datapath) replaceInLink(path string, prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	if err = l.Update(prog); err == nil {
		d.links.hold(path, l)
		return nil
	}
	defer l.Close()
	if gone, infoErr := linkGone(l); infoErr != nil || !gone {
		return errors.Join(err, infoErr)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove dead link: %w", err)
	}
	return os.ErrNotExist
}

// linkGone tells whether the cgroup or device a link was attached to is no more.
func linkGone(l link.Link) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("inspect link: %w", err)
	}
	if tcx := info.TCX(); tcx != nil {
		return tcx.Ifindex == 0, nil
	}
	if cg := info.Cgroup(); cg != nil {
		return cg.CgroupId == 0, nil
	}
	return false, nil
}

func (d *Datapath) pinAndHold(l link.Link, path string) error {
	if err := l.Pin(path); err != nil {
		_ = l.Close()
		return fmt.Errorf("pin link: %w", err)
	}
	d.links.hold(path, l)
	return nil
}
