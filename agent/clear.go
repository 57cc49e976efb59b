package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"shoal/agent/cgroup"
	"shoal/agent/runner"
	"shoal/agent/volume"
)

// Clear removes everything that earlier agents with these options left on the
// host: containers (asked to end first, then ended by force), root file
// systems, network attachments, mounts, control groups and logs. It needs no
// API server; images and objects stay. No agent may run meanwhile. Of the
// options it takes containerd's, CgroupRoot, KeepCgroupRoot, DataDir, LogDir, Network and
// Logger. It may be repeated.
func Clear(ctx context.Context, o Options) error {
	o.fill()
	switch {
	case o.Network == nil:
		return errors.New("clear pods: no network")
	case os.Geteuid() != 0:
		return errors.New("clear pods: not root; namespaces, mounts and cgroups need it; run with sudo")
	}
	a := &Agent{o: o, log: o.Logger, metrics: newAgentMetrics()}
	if err := a.connect(); err != nil {
		return err
	}
	defer a.client.Close()
	groups, err := cgroup.Open(o.CgroupRoot)
	if err != nil {
		return err
	}
	groups.KeepRoot = o.KeepCgroupRoot
	volumes, err := volume.Open(o.DataDir, nil)
	if err != nil {
		return err
	}
	r, err := runner.New(runner.Options{
		Client: a.client, Namespace: o.ContainerdNamespace, Snapshotter: snapshotter,
		Cgroups: groups, Volumes: volumes, Network: o.Network,
		DataDir: o.DataDir, LogDir: filepath.Clean(o.LogDir), Logger: o.Logger,
	})
	if err != nil {
		return errors.Join(err, volumes.Close())
	}
	if err := r.Clear(ctx); err != nil {
		return err
	}
	return errors.Join(r.Close(), volumes.Close(), groups.RemoveRoot())
}
