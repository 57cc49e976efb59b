package netdp

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// heedIPsec leaves the tunnel's packets to the stack while the host has IPsec
// policies (bpf/vxlan.h): past it they would leave in the clear what such a policy
// encrypts, and come in as what it refuses. With an error it leaves them too.
func (d *Datapath) heedIPsec() error {
	has, unknown := d.hasIPsec()
	value := uint32(0)
	if has || unknown != nil {
		value = 1
	}
	var was uint32
	if err := d.tunnelByStack.Get(&was); err != nil {
		return fmt.Errorf("ask the programs: %w", err)
	}
	if was != value {
		if err := d.tunnelByStack.Set(value); err != nil {
			return fmt.Errorf("tell the programs: %w", err)
		}
	}
	if was == value || unknown != nil {
		return unknown
	}
	if has {
		d.log.Info("the tunnel's packets go through the stack, which heeds IPsec; see `ip xfrm policy`", "device", tunnelDevice)
	} else {
		d.log.Info("the tunnel's packets go past the stack again: no IPsec policy is left", "device", tunnelDevice)
	}
	return nil
}

func (d *Datapath) hasIPsec() (has bool, err error) {
	err = d.host.do(func() error {
		policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
		switch {
		case errors.Is(err, netlink.ErrDumpInterrupted):
			err = nil
			has = true // for this round: they are being changed
		case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
			return nil // a kernel without IPsec
		}
		has = has || len(policies) > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("list IPsec policies: %w", err)
	}
	return has, nil
}

// ipsec looks for policies that were made since.
func (r *repairs) ipsec() {
	if err := r.d.heedIPsec(); err != nil {
		r.add(err, "whether the host has IPsec policies is not known")
	}
}
