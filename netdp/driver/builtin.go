package driver

import (
	"context"
	"net/netip"

	"shoal/netdp/policy/tables"
)

// Datapath is what Builtin needs of netdp.Datapath.
type Datapath interface {
	AttachTo(ctx context.Context, podUID, namespace, name, given string, id *tables.Identity) (string, []netip.Addr, error)
	Detach(ctx context.Context, podUID string) error
	Attached(ctx context.Context) ([]string, error)
}

// Builtin is the driver of shoal's own datapath. Host ports are services there
// (netdp/services), and need nothing of it.
type Builtin struct{ Datapath }

// Attach implements Driver.
func (b Builtin) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	path, addrs, err := b.AttachTo(ctx, pod.UID, pod.Namespace, pod.Name, pod.NetNS, pod.Identity)
	return Attachment{NetNS: path, Addresses: addrs}, err
}
