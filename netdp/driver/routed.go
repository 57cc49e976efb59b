package driver

import (
	"context"
	"errors"
	"net/netip"
)

// Routes is what a Routed needs of the datapath.
type Routes interface {
	// SetRouted makes known a pod whose namespace is at the path given.
	SetRouted(podUID, netns string, addrs []netip.Addr) error
	DropRouted(podUID string) error
}

// Routed is a driver whose pods the datapath must be told of: it makes no link for
// them, and knows by their addresses alone that they are of this host.
type Routed struct {
	Driver
	Routes
}

// Attach implements Driver.
func (r Routed) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	got, err := r.Driver.Attach(ctx, pod)
	if err == nil {
		err = r.SetRouted(pod.UID, got.NetNS, got.Addresses)
	}
	return got, err
}

// Detach implements Driver. The address is forgotten before another pod can get it.
func (r Routed) Detach(ctx context.Context, podUID string) error {
	return errors.Join(r.DropRouted(podUID), r.Driver.Detach(ctx, podUID))
}
