package cni

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// collects is the version of the specification since which plugins are told what
// is still in use (GC).
const collects = "1.1.0"

// Collect has the plugins of a network that knows it drop what is of no pod here:
// leases of an earlier installation, say. Until they have ended no other plugin runs,
// as the specification wants it.
func (d *Driver) Collect(ctx context.Context) error {
	list, err := d.o.network()
	if err != nil {
		return nil // Ready says so
	}
	if known, err := version.GreaterThanOrEqualTo(list.CNIVersion, collects); err != nil || !known || list.DisableGC {
		return nil
	}
	for i := range cap(d.runs) {
		select {
		case d.runs <- struct{}{}:
		case <-ctx.Done():
			d.release(i)
			return ctx.Err()
		}
	}
	defer d.release(cap(d.runs))
	// Whatever a plugin was asked for has a record by then.
	records, err := d.records.Load()
	if err != nil {
		return err
	}
	used := make([]types.GCAttachment, len(records))
	for i, rec := range records {
		used[i] = types.GCAttachment{ContainerID: rec.Sandbox, IfName: ifName}
	}
	ctx, cancel := context.WithTimeout(ctx, d.o.Timeout)
	defer cancel()
	if err := d.lib.GCNetworkList(ctx, list.NetworkConfigList, &libcni.GCArgs{ValidAttachments: used}); err != nil {
		return fmt.Errorf("CNI network %q: %w", list.Name, err)
	}
	return nil
}

func (d *Driver) release(n int) {
	for range n {
		<-d.runs
	}
}
